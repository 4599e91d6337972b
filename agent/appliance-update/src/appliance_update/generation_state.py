"""What the updater of a generation host remembers beside the record: the candidate's store path, the orders' wishes.

And the lock: a file that says why the boot entries must not be rewritten nor garbage collected now. It is read by
shell (`modules/appliance/generations.nix`), so it is one line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from appliance_update.files import Unreadable, decode, read_limited, write_json, write_whole
from appliance_update.host import Host, os_release_fields

FILE = "generation.json"
LOCK = "generation-armed"
LIMIT = 256 * 1024


class Unfit(Exception):
    """What is in the store is no system for this host; the message says why."""


@dataclass(frozen=True)
class Source:
    """Where a system comes from: a signed store path, or a flake reference that is allowed."""

    store_path: str = ""
    flake: str = ""

    def __str__(self) -> str:
        return self.store_path or self.flake


NONE = Source()


@dataclass(frozen=True)
class System:
    """A system in the store. `version` and `image_id` are its os-release's."""

    path: str
    version: str = ""
    image_id: str = ""
    source: Source = NONE

    @property
    def label(self) -> str:
        """For people: the version, and enough of the hash to tell two builds of it apart."""
        return f"{self.version or 'unversioned'}-{self.path.removeprefix('/nix/store/')[:8]}"


@dataclass(frozen=True)
class Known:
    """The whole file. `before` is the system that the profile was when the candidate was armed.

    `good` is the system that last proved itself here, `bad` one whose generation is still to be cleared away, and
    `wishes` what the waiting orders ask for, by order.
    """

    candidate: System | None = None
    before: str = ""
    good: str = ""
    bad: str = ""
    wishes: dict[str, Source] = field(default_factory=dict)
    format: int = 1


def load(state: Path) -> Known:
    """What is known; nothing when the file cannot be read: the boot entries tell the rest."""
    try:
        return decode(read_limited(state / FILE, LIMIT), Known, FILE)
    except (OSError, Unreadable):
        return Known()


def save(state: Path, known: Known) -> None:
    """Replace the file. Raises `OSError`."""
    write_json(state / FILE, known)


def lock(state: Path, reason: str) -> None:
    """From now on nobody rewrites boot entries or collects garbage. Raises `OSError`."""
    write_whole(state / LOCK, f"{reason}\n".encode())


def unlock(state: Path) -> None:
    """The trial is over. Raises `OSError`."""
    (state / LOCK).unlink(missing_ok=True)


def system_of(host: Host, path: str, source: Source = NONE) -> System:
    """What a system in the store says of itself. Raises `Unfit` when it says nothing."""
    try:
        text = read_limited(_followed(host, f"{path}/etc/os-release"), LIMIT).decode(errors="replace")
    except (OSError, Unreadable) as error:
        raise Unfit(f"{path} is not a NixOS system: its os-release cannot be read ({error})") from error
    fields = os_release_fields(text)
    return System(path, fields.get("IMAGE_VERSION", "")[:64], fields.get("IMAGE_ID", "")[:64], source)


def _followed(host: Host, path: str) -> Path:
    """A path of the store with its links followed below the host's root, not below ours."""
    for _ in range(8):
        real = host.path(path)
        parents = [part for part in (real, *real.parents) if part != host.root and host.root in part.parents]
        link = next((part for part in reversed(parents) if part.is_symlink()), None)
        if link is None:
            return real
        target = link.readlink()
        rest = real.relative_to(link)
        base = str(target) if target.is_absolute() else f"/{link.parent.relative_to(host.root) / target}"
        path = f"{base}/{rest}" if str(rest) != "." else base
    raise OSError(f"{path}: too many links")
