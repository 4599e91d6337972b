"""The boot entries of generations: `nixos-<hash>+L-D.conf`, each of which names the system it starts.

Sources: https://uapi-group.org/specifications/specs/boot_loader_specification/ and nixpkgs' systemd-boot-builder.py,
which finds an entry again by its hash, whatever counter the loader has written into its name since.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from appliance_update.entries import Counted, number
from appliance_update.files import Unreadable, read_limited, write_whole

NAME = re.compile(r"(nixos-[0-9a-f]{64})(?:\+(\d+)(?:-(\d+))?)?\.conf")
GENERATION = re.compile(r"^version Generation (\d{1,9})\b", re.MULTILINE)
PREFERRED = re.compile(r"^preferred\s+(\S+).*$", re.MULTILINE)
INIT = re.compile(r"^options\b.*?\binit=(/nix/store/[^/\s]+)/init\b", re.MULTILINE)
LIMIT = 64 * 1024


@dataclass(frozen=True)
class Entry(Counted):
    """One generation's entry. `system` is a store path, `generation` its number in the profile (0: it tells none)."""

    system: str
    generation: int = 0

    @property
    def identity(self) -> str:
        """The name without the counter, as loader.conf has it."""
        match = NAME.fullmatch(self.path.name)
        return f"{match[1]}.conf" if match else self.path.name

    def counted(self, left: int, done: int) -> str:
        """The file's name with a counter."""
        return f"{self.identity.removesuffix('.conf')}+{left}-{done}.conf"


def entries(directory: Path) -> tuple[Entry, ...]:
    """Every generation's entry, sorted by name. Raises `OSError` when the directory cannot be read."""
    found = []
    for path in sorted(directory.iterdir()):
        match = NAME.fullmatch(path.name)
        text = _text(path) if match else ""
        init = INIT.search(text)
        if match and init:
            told = GENERATION.search(text)
            generation = int(told[1]) if told else 0
            found.append(Entry(path, init[1], generation, left=number(match[2]), done=number(match[3])))
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return read_limited(path, LIMIT).decode(errors="replace")
    except (OSError, Unreadable):
        return ""


def of_system(found: tuple[Entry, ...], system: str) -> tuple[Entry, ...]:
    """The entries of one system: one a generation of the profile that is it."""
    return tuple(entry for entry in found if entry.system == system)


def preferred(loader_conf: Path) -> str:
    """The entry that loader.conf has booted while it is not spent; empty when it names none."""
    match = PREFERRED.search(_text(loader_conf))
    return match[1] if match else ""


def prefer(loader_conf: Path, identity: str) -> None:
    """Have another entry booted while it is not spent. Raises `OSError`; `ValueError` when loader.conf prefers none."""
    text, count = PREFERRED.subn(f"preferred {identity}", _text(loader_conf), count=1)
    if not count:
        raise ValueError(f"{loader_conf} prefers no entry")
    write_whole(loader_conf, text.encode(), 0o755)
