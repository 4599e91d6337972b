"""Which of the two slots the box was booted from.

The disk follows image/layout.toml: the data partition of a slot carries the first half of the verity root hash as its
partition UUID (systemd-gpt-auto-generator(8)), and slot a's data partition comes before slot b's. Everything is read
from sysfs and the udev database, so that it works without access to a device node.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from compliance_agent.facts.release import root_hash

LETTERS = ("a", "b")


class SlotUnknown(RuntimeError):
    """The booted slot cannot be told; the message says why. Never a default: a guess has bricked boxes."""


@dataclass(frozen=True)
class Partition:
    """One partition of the disk by the kernel and udev; `type` and `uuid` are lower case, empty when unknown."""

    device: str
    disk: str
    number: int
    label: str
    uuid: str
    type: str


@dataclass(frozen=True)
class Slot:
    """The booted slot and its data partition."""

    letter: str
    partition: Partition


def read_slot(root: Path = Path("/")) -> Slot:
    """The slot whose partition UUID is that of the verity root hash on the command line. Raises `SlotUnknown`."""
    digest = root_hash(root)
    if digest is None:
        raise SlotUnknown("the kernel's command line names no verity root hash: this is not a slot of an image")
    wanted = str(uuid.UUID(digest[:32]))
    partitions = read_partitions(root)
    booted = [item for item in partitions if item.uuid == wanted]
    if not booted:
        raise SlotUnknown(f"no partition has the UUID {wanted} of the booted verity root hash")
    if len(booted) > 1:
        devices = ", ".join(item.device for item in booted)
        raise SlotUnknown(f"{devices} have the same UUID {wanted}: unplug the copy of the disk")
    peers = sorted(
        (item for item in partitions if item.disk == booted[0].disk and item.type == booted[0].type),
        key=lambda item: item.number,
    )
    if not booted[0].type or len(peers) > len(LETTERS):
        raise SlotUnknown(f"the disk {booted[0].disk} has {len(peers)} partitions of the slot's type, not one or two")
    return Slot(LETTERS[peers.index(booted[0])], booted[0])


def slot_or_reason(root: Path = Path("/")) -> str:
    """`a`, `b`, or the reason why it cannot be told, as a check-in carries it."""
    try:
        return read_slot(root).letter
    except SlotUnknown as error:
        return str(error)


def read_partitions(root: Path = Path("/")) -> list[Partition]:
    """Every partition the kernel knows, as far as it can be read."""
    found = []
    for directory in sorted((root / "sys/class/block").glob("*")):
        kernel = _pairs(directory / "uevent")
        if kernel.get("DEVTYPE") != "partition":
            continue
        major_minor = f"{kernel.get('MAJOR', '')}:{kernel.get('MINOR', '')}"
        udev = _udev_properties(root / f"run/udev/data/b{major_minor}")
        number = kernel.get("PARTN", "")
        found.append(
            Partition(
                device=directory.name,
                disk=_disk_of(directory, kernel.get("PARTN", "")),
                number=int(number) if number.isascii() and number.isdigit() else 0,
                label=kernel.get("PARTNAME") or udev.get("ID_PART_ENTRY_NAME", ""),
                uuid=(kernel.get("PARTUUID") or udev.get("ID_PART_ENTRY_UUID", "")).lower(),
                type=udev.get("ID_PART_ENTRY_TYPE", "").lower(),
            )
        )
    return found


def _disk_of(directory: Path, number: str) -> str:
    """The disk a partition is on: the directory above its own in sysfs, else its name without the number."""
    if directory.is_symlink():
        return directory.resolve().parent.name
    name = directory.name.removesuffix(number)
    return name.removesuffix("p") if name[:-1] and name[-2:-1].isdigit() else name


def _pairs(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}


def _udev_properties(path: Path) -> dict[str, str]:
    """The `E:` lines of a device's record in the udev database."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    entries = (line[2:].partition("=") for line in lines if line.startswith("E:"))
    return {name: value for name, equals, value in entries if equals}
