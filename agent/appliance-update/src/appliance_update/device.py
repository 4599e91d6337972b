"""Which disk we run from, which slot is booted, and what is in the other one. Nothing here is ever assumed."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from pathlib import Path

from appliance_update.entries import Entry, entries, of_version
from appliance_update.gpt import TableEntry, TableError, read_table
from appliance_update.host import Host
from appliance_update.layout import Flavour, Layout, Role, compiled
from appliance_update.uki import argument

DIRTY = "its FAT is damaged, or the disk fails; unmount it, run `fsck.vfat -a` on it, and mount it again"

FOREIGN = ("dm-", "loop", "ram", "zram", "md", "nbd", "sr", "fd")
"""Beginnings of kernel names that are never a disk of ours."""


Parts = tuple[TableEntry, TableEntry]
"""Data and verity partition of a slot."""


class DeviceError(RuntimeError):
    """A device whose slots cannot be told for certain; the message says what is wrong and what to do."""


class SlotState(enum.StrEnum):
    """What is in a slot."""

    BOOTED = "booted"
    STANDBY = "standby"
    EMPTY = "empty"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Slot:
    """One half of A/B. `blessed` is None when no boot entry tells."""

    name: str
    state: SlotState
    version: str
    data: TableEntry
    verity: TableEntry
    blessed: bool | None = None
    spent: bool = False


@dataclass(frozen=True)
class Device:
    """The appliance's disk, asserted."""

    disk: Path
    disk_name: str
    flavour: str
    root_hash: str
    version: str
    booted: Slot
    standby: Slot
    esp: Path
    entries: tuple[Entry, ...]

    @property
    def slots(self) -> tuple[Slot, Slot]:
        """Slot a, then slot b."""
        first, second = sorted((self.booted, self.standby), key=lambda slot: slot.name)
        return first, second


def verity_identity(root_hash: str) -> tuple[uuid.UUID, uuid.UUID]:
    """The UUIDs of the data and the hash partition that a dm-verity root hash (64 hex digits) demands.

    Source: Discoverable Partitions Specification. Raises `ValueError`.
    """
    if len(root_hash) != 64:
        raise ValueError("a root hash has 64 hexadecimal digits")
    return uuid.UUID(root_hash[:32]), uuid.UUID(root_hash[32:])


def inspect(host: Host, layout: Layout) -> Device:
    """Establish the booted slot, its disk and the other slot. Raises `DeviceError` with the reason."""
    try:
        return _inspect(host, layout)
    except (TableError, OSError) as error:
        raise DeviceError(f"The disk cannot be read: {error}") from error


def _inspect(host: Host, layout: Layout) -> Device:
    flavour, root_hash = booted_root_hash(host, layout)
    disk_name = _booted_disk(host, layout.flavour[flavour].mapper)
    disk = host.path(f"/dev/{disk_name}")
    table = {entry.number: entry for entry in read_table(disk, layout.image.sector_size)}
    parts = {name: (_entry(table, layout, Role.DATA, name), _entry(table, layout, Role.VERITY, name)) for name in "ab"}
    wanted = verity_identity(root_hash)
    booted = [name for name, (data, verity) in parts.items() if (data.uuid, verity.uuid) == wanted]
    if len(booted) != 1:
        raise DeviceError(
            f"The running system's root hash {root_hash[:16]}… belongs to {len(booted)} of the two slots of "
            f"/dev/{disk_name}; the booted slot is unknown, so neither may be overwritten"
        )
    version = host.image_version
    label = layout.slot.data_label.replace("@v", version)
    if not version or parts[booted[0]][0].label != label:
        raise DeviceError(
            f"The running system calls itself {version or 'nothing'!r}, its partition is labelled "
            f"{parts[booted[0]][0].label!r}; they must agree before anything is written"
        )
    esp = find_esp(host, layout, disk_name)
    try:
        found = entries(esp, layout)
    except OSError as error:
        raise DeviceError(f"The boot entries on {esp} cannot be read ({error.strerror}): {DIRTY}") from error
    kind = layout.flavour[flavour]
    slots = {name: _slot(name, name == booted[0], kind, parts[name], found, layout) for name in "ab"}
    return Device(
        disk,
        disk_name,
        flavour,
        root_hash,
        version,
        slots[booted[0]],
        slots["b" if booted[0] == "a" else "a"],
        esp,
        found,
    )


def booted_root_hash(host: Host, layout: Layout) -> tuple[str, str]:
    """The flavour and root hash that the kernel was started with. Raises `DeviceError`."""
    text = host.kernel_command_line()
    for name, flavour in layout.flavour.items():
        value = argument(text, flavour.root_hash_argument)
        if value:
            if len(value) != 64 or any(character not in "0123456789abcdef" for character in value):
                raise DeviceError(f"The kernel's {flavour.root_hash_argument}= is not a root hash: {value[:80]!r}")
            return name, value
    raise DeviceError(
        "The kernel was started without a root hash: this system does not run from a verified slot, "
        "so it cannot be updated in slots (is it an installer, or a development machine?)"
    )


def _booted_disk(host: Host, mapper: str) -> str:
    """The disk below the verity device that the running system really uses, by sysfs."""
    devices = host.block_devices()
    for directory in devices.values():
        try:
            name = (directory / "dm" / "name").read_text().strip()
        except OSError:
            continue
        if name != mapper:
            continue
        parents = {
            devices[slave.name].parent.name for slave in (directory / "slaves").iterdir() if slave.name in devices
        }
        if len(parents) != 1:
            raise DeviceError(f"/dev/mapper/{mapper} lies on {len(parents)} disks, not on one")
        return parents.pop()
    raise DeviceError(f"/dev/mapper/{mapper} is missing: the running system does not lie on a verified slot")


def _entry(table: dict[int, TableEntry], layout: Layout, role: Role, slot: str) -> TableEntry:
    number = layout.number(role, slot)
    wanted = layout.partition[number - 1]
    entry = table.get(number)
    if entry is None:
        raise DeviceError(
            f"Slot {slot} is incomplete: partition {number} ({wanted.name}) is missing; "
            "the disk is too small or first boot did not finish partitioning (see the journal of systemd-repart)"
        )
    if entry.size != wanted.size:
        raise DeviceError(
            f"Partition {number} should be {wanted.name} with {wanted.size} bytes, it has {entry.size}; "
            "this disk was not made from this layout"
        )
    return entry


def _slot(name: str, is_booted: bool, kind: Flavour, parts: Parts, found: tuple[Entry, ...], layout: Layout) -> Slot:
    data, verity = parts
    # Since systemd 260 a slot that is being written has partition types of its own; its labels may be final already.
    typed = (data.type, verity.type) == (kind.data_type, kind.verity_type)
    pairs = ((layout.slot.data_label, data.label), (layout.slot.verity_label, verity.label))
    labels = [compiled(pattern).fullmatch(label) for pattern, label in pairs]
    versions = {match["version"] for match in labels if match}
    if is_booted:
        state = SlotState.BOOTED
    elif typed and data.label == verity.label == layout.slot.empty_label:
        return Slot(name, SlotState.EMPTY, "", data, verity)
    elif not typed or None in labels or len(versions) != 1:
        return Slot(name, SlotState.UNKNOWN, "", data, verity)  # an interrupted update: to be overwritten, never booted
    else:
        state = SlotState.STANDBY
    version = versions.pop()
    own = of_version(found, version)
    blessed = own[0].blessed if len(own) == 1 else None
    return Slot(name, state, version, data, verity, blessed, any(entry.spent for entry in own))


def find_esp(host: Host, layout: Layout, disk_name: str) -> Path:
    """The mount point of this disk's ESP. Raises `DeviceError`."""
    devices = host.block_devices()
    number = layout.number(Role.ESP)
    wanted = None
    for directory in devices.values():
        if directory.parent.name == disk_name and _text(directory / "partition") == str(number):
            wanted = _text(directory / "dev")
    for mount_point in layout.esp.mount_points:
        path = host.path(mount_point)
        if (path / "EFI").is_dir() and wanted is not None and host.mounted_at(mount_point) == wanted:
            return path  # looking at EFI made an automount mount it
    raise DeviceError(
        f"The ESP of /dev/{disk_name} is not mounted at {' or '.join(layout.esp.mount_points)}; "
        "mount it read-write (its automount unit may have failed)"
    )


def refusals(device: Device, host: Host, layout: Layout) -> list[str]:
    """Why nothing may be written to this device now; empty when all is well."""
    reasons = [*_twins(device, host, layout), *_in_use(device, host), *_esp_read_only(device, host, layout)]
    own = of_version(device.entries, device.version)
    every_entry_spent = bool(device.entries) and all(entry.spent for entry in device.entries)
    if len(own) > 1:
        names = ", ".join(entry.path.name for entry in own)
        reasons.append(f"The running version has more than one boot entry ({names}); remove all but the right one")
    elif not own:
        reasons.append(f"The running version {device.version} has no boot entry on the ESP; a reboot would lose it")
    elif not own[0].blessed and not every_entry_spent:
        reasons.append(
            f"The running version {device.version} is still on trial ({own[0].path.name}); "
            "an update now would cost the only version known to be good"
        )
    return reasons


def _esp_read_only(device: Device, host: Host, layout: Layout) -> list[str]:
    """The kernel remounts a FAT read-only when it finds it damaged."""
    for mount_point in layout.esp.mount_points:
        if device.esp == host.path(mount_point) and host.read_only(mount_point):
            return [f"The ESP is mounted read-only at {mount_point}: {DIRTY}"]
    return []


def _twins(device: Device, host: Host, layout: Layout) -> list[str]:
    ours = {slot.data.label for slot in device.slots} | {slot.verity.label for slot in device.slots}
    ours = {label for label in ours if label != layout.slot.empty_label}
    ours.add(layout.partition[layout.number(Role.STATE) - 1].label)
    reasons = []
    for name, directory in host.block_devices().items():
        if name == device.disk_name or name.startswith(FOREIGN) or (directory / "partition").exists():
            continue
        try:
            labels = {entry.label for entry in read_table(host.path(f"/dev/{name}"), layout.image.sector_size)}
        except TableError:
            continue  # no table, no labels
        if labels & ours:
            reasons.append(
                f"Disk /dev/{name} carries the same partition labels as our /dev/{device.disk_name} "
                f"({', '.join(sorted(labels & ours))}); unplug it or wipe it before updating"
            )
    return reasons


def _in_use(device: Device, host: Host) -> list[str]:
    numbers = {device.standby.data.number, device.standby.verity.number}
    mounted = host.mounted_numbers()
    reasons = []
    for name, directory in host.block_devices().items():
        if directory.parent.name != device.disk_name or _text(directory / "partition") not in {str(n) for n in numbers}:
            continue
        holders = directory / "holders"
        held = sorted(holder.name for holder in holders.iterdir()) if holders.is_dir() else []
        if held or _text(directory / "dev") in mounted:
            reasons.append(
                f"The inactive slot's /dev/{name} is in use ({', '.join(held) or 'mounted'}); unmount it first"
            )
    return reasons


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
