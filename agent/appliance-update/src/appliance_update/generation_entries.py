"""The boot entries of generations: `nixos-<hash>+L-D.conf`, each of which names the system it starts.

Sources: https://uapi-group.org/specifications/specs/boot_loader_specification/ and nixpkgs' systemd-boot-builder.py,
which finds an entry again by its hash, whatever counter the loader has written into its name since.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from appliance_update.entries import Counted, number
from appliance_update.files import Unreadable, read_limited

NAME = re.compile(r"(nixos-[0-9a-f]{64})(?:\+(\d+)(?:-(\d+))?)?\.conf")
INIT = re.compile(r"^options\b.*?\binit=(/nix/store/[^/\s]+)/init\b", re.MULTILINE)
LIMIT = 64 * 1024


@dataclass(frozen=True)
class Entry(Counted):
    """One generation's entry. `system` is a store path."""

    path: Path
    system: str

    @property
    def identity(self) -> str:
        """The name without the counter, as loader.conf has it."""
        match = NAME.fullmatch(self.path.name)
        return f"{match[1]}.conf" if match else self.path.name


def entries(directory: Path) -> tuple[Entry, ...]:
    """Every generation's entry, sorted by name. Raises `OSError` when the directory cannot be read."""
    found = []
    for path in sorted(directory.iterdir()):
        match = NAME.fullmatch(path.name)
        system = _system(path) if match else ""
        if match and system:
            found.append(Entry(path, system, left=number(match[2]), done=number(match[3])))
    return tuple(found)


def _system(path: Path) -> str:
    try:
        match = INIT.search(read_limited(path, LIMIT).decode(errors="replace"))
    except (OSError, Unreadable):
        return ""
    return match[1] if match else ""


def of_system(found: tuple[Entry, ...], system: str) -> tuple[Entry, ...]:
    """The entries of one system: one a generation of the profile that is it."""
    return tuple(entry for entry in found if entry.system == system)


def preferred(loader_conf: Path) -> str:
    """The entry that loader.conf has booted while it is not spent; empty when it names none."""
    try:
        text = read_limited(loader_conf, LIMIT).decode(errors="replace")
    except (OSError, Unreadable):
        return ""
    match = re.search(r"^preferred\s+(\S+)", text, re.MULTILINE)
    return match[1] if match else ""
