"""The boot entries: UKIs on the ESP, whose file names carry the loader's counter.

Source: https://systemd.io/AUTOMATIC_BOOT_ASSESSMENT/
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from appliance_update import faults
from appliance_update.files import flush_directory
from appliance_update.layout import Layout, compiled


@dataclass(frozen=True)
class Counted:
    """A boot entry's file and the loader's counter: tries left and done. `left` is None when it is not counted."""

    path: Path
    left: int | None = field(default=None, kw_only=True)
    done: int | None = field(default=None, kw_only=True)

    @property
    def blessed(self) -> bool:
        """Proved good, or never on trial."""
        return self.left is None

    @property
    def spent(self) -> bool:
        """Out of tries: the loader takes it only when nothing else is there."""
        return self.left == 0


@dataclass(frozen=True)
class Entry(Counted):
    """One UKI."""

    version: str


def entries(esp: Path, layout: Layout) -> tuple[Entry, ...]:
    """The UKIs of this image on the ESP, sorted by name. Raises `OSError` when the ESP cannot be read."""
    patterns = [compiled(pattern) for pattern in (*layout.esp.uki_counted, layout.esp.uki_name)]
    directory = esp / layout.esp.uki_directory.lstrip("/")
    found = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        for pattern in patterns:
            match = pattern.fullmatch(path.name)
            if match and path.is_file():
                groups = match.groupdict()
                left, done = groups.get("left"), groups.get("done")
                found.append(Entry(path, groups["version"], left=number(left), done=number(done)))
                break
    return tuple(found)


def number(digits: str | None) -> int | None:
    """A part of a counter in a file name; None when it is not there."""
    return int(digits) if digits else None


def of_version(found: tuple[Entry, ...], version: str) -> tuple[Entry, ...]:
    """The entries of one version: one when all is well, more when a stale twin is about."""
    return tuple(entry for entry in found if entry.version == version)


def stale_twins(own: tuple[Entry, ...], booted: str) -> tuple[Entry, ...]:
    """Of several entries of one version those that may go: all but the one that was booted.

    When the loader does not say which that was, only copies may go, byte for byte the same as the one that stays. A
    twin keeps the blessing from taking effect (systemd issue 33504). Raises `OSError`.
    """
    if len(own) < 2:
        return ()
    named = [entry for entry in own if entry.path.name.casefold() == booted.casefold()]
    if named:
        return tuple(entry for entry in own if entry != named[0])
    kept = next((entry for entry in own if entry.blessed), own[0])
    content = kept.path.read_bytes()
    others = tuple(entry for entry in own if entry != kept)
    return others if all(entry.path.read_bytes() == content for entry in others) else ()


def rename(entry: Counted, name: str) -> Path:
    """Give an entry another counter, durably. Raises `OSError`."""
    target = entry.path.with_name(name)
    faults.point(f"entry rename:{name}")
    entry.path.replace(target)
    flush_directory(target.parent)
    faults.point(f"entry renamed:{name}")
    return target


def counted_name(layout: Layout, version: str, left: int, done: int) -> str:
    """The file name of an entry with a counter."""
    pattern = next(pattern for pattern in layout.esp.uki_counted if "@d" in pattern)
    return pattern.replace("@v", version).replace("@l", str(left)).replace("@d", str(done))


def aside_name(layout: Layout, version: str) -> str:
    """The file name of a good entry that steps aside for another version: spent, with one try more than there are.

    So the gate knows, should it be booted all the same, that there is nothing better.
    """
    return counted_name(layout, version, 0, layout.boot.tries + 1)


def blessed_name(layout: Layout, version: str) -> str:
    """The file name of an entry without a counter."""
    return layout.esp.uki_name.replace("@v", version)


def remove(entry: Entry) -> None:
    """Take an entry away, durably, before its slot is overwritten. Raises `OSError`."""
    faults.point(f"unlink:{entry.path.name}")
    entry.path.unlink(missing_ok=True)
    flush_directory(entry.path.parent)
    faults.point(f"unlinked:{entry.path.name}")
