"""The disk as the kernel sees it: what is mounted, what dm-verity protects, and the two system slots.

Labels and order are those of image/layout.toml: each slot is a hash partition `<id>-verity_<version>` followed by a
data partition `<id>_<version>`; both are called `_empty` in a slot that holds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from compliance_agent.checks._inputs import Inputs, assignments
from compliance_agent.errors import CheckError

MOUNTS = "/proc/self/mountinfo"
EMPTY = "_empty"
VERITY = "CRYPT-VERITY-"
LUKS = "CRYPT-LUKS"
UNFINISHED = ("PRT#", "PND#")
"""What systemd-sysupdate (260 and later) puts before the label of a partition it has not finished writing."""


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. `options` are the file system's own: they hold for every view of it."""

    point: str
    device: str
    """`major:minor`."""
    filesystem: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Partition:
    """One partition by sysfs. `size` is in bytes."""

    name: str
    number: int
    label: str
    size: int


@dataclass(frozen=True)
class Slot:
    """One of the two places a system is installed to."""

    name: str
    data: Partition
    verity: Partition

    @property
    def empty(self) -> bool:
        """Whether the slot holds no system."""
        return EMPTY in (self.data.label, self.verity.label)

    @property
    def unfinished(self) -> bool:
        """Whether an installation into this slot has begun and not ended."""
        return self.data.label.startswith(UNFINISHED) or self.verity.label.startswith(UNFINISHED)

    @property
    def version(self) -> str:
        """The version in the data partition's label; empty when there is none."""
        return "" if self.empty else self.data.label.partition("_")[2]

    @property
    def consistent(self) -> bool:
        """Whether data and hash partition are labelled as one release."""
        return self.verity.label.partition("_")[2] == self.data.label.partition("_")[2]


@dataclass(frozen=True)
class Verified:
    """A mounted file system whose every read is checked by dm-verity."""

    mount: Mount
    mapper: str
    partitions: tuple[str, ...]


def mounts(inputs: Inputs) -> dict[str, Mount]:
    """What is mounted, by mount point, the topmost where several are stacked. Raises `CheckError`."""
    found: dict[str, Mount] = {}
    for line in inputs.text(MOUNTS).splitlines():
        left, separator, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if not separator or len(before) < 6 or len(after) < 2 or ":" not in before[2]:
            raise CheckError(f"{MOUNTS} has a line that cannot be read: {line[:100]!r}", MOUNTS)
        point = before[4].replace("\\040", " ")
        found[point] = Mount(point, before[2], after[0], after[1], tuple((after[2:] or [""])[0].split(",")))
    if not found:
        raise CheckError(f"{MOUNTS} is empty", MOUNTS)
    return found


def mapped(inputs: Inputs, mount: Mount) -> str:
    """The device mapper uuid of what is mounted (`CRYPT-VERITY-…`, `CRYPT-LUKS2-…`); empty when it is no mapping."""
    text = inputs.text_if_there(f"/sys/dev/block/{mount.device}/dm/uuid", 4096)
    return (text or "").strip()


def verified(inputs: Inputs) -> Verified | None:
    """The system file system (`/` or `/usr`) that dm-verity protects; None when neither is. Raises `CheckError`."""
    mounted = mounts(inputs)
    for point in ("/usr", "/"):
        mount = mounted.get(point)
        if mount is not None and mapped(inputs, mount).startswith(VERITY):
            base = f"/sys/dev/block/{mount.device}"
            name = inputs.text(f"{base}/dm/name", 4096).strip()
            return Verified(mount, name, tuple(inputs.names(f"{base}/slaves")))
    return None


def slots(inputs: Inputs, image_id: str) -> tuple[Slot, ...]:
    """The system slots of the disk, in order, `a` first. An incomplete pair is left out. Raises `CheckError`."""
    pairs: list[Slot] = []
    verity: Partition | None = None
    for partition in _system_partitions(inputs, image_id):
        # Both partitions of an empty slot have the same label: neighbours, the smaller first, are a slot.
        if verity is not None and partition.number == verity.number + 1 and verity.size < partition.size:
            pairs.append(Slot(chr(ord("a") + len(pairs)), partition, verity))
            verity = None
        else:
            verity = partition
    return tuple(pairs)


def _system_partitions(inputs: Inputs, image_id: str) -> list[Partition]:
    found = []
    for name in inputs.names("/sys/class/block"):
        base = f"/sys/class/block/{name}"
        if not inputs.host.path(f"{base}/partition").exists():
            continue
        label = _label(inputs, base)
        plain = label.removeprefix(UNFINISHED[0]).removeprefix(UNFINISHED[1])
        if plain == EMPTY or plain.startswith((f"{image_id}_", f"{image_id}-verity_")):
            sectors = inputs.integer(f"{base}/size")
            found.append(Partition(name, inputs.integer(f"{base}/partition"), label, sectors * 512))
    return sorted(found, key=lambda item: item.number)


def booted(candidates: tuple[Slot, ...], system: Verified | None) -> Slot | None:
    """The slot the running system was started from; None when it is none of them."""
    if system is None:
        return None
    for slot in candidates:
        if slot.data.name in system.partitions:
            return slot
    return None


def _label(inputs: Inputs, base: str) -> str:
    """A partition's label by udev, else by the kernel, which is not told it for a partition that repart added."""
    device = (inputs.text_if_there(f"{base}/dev", 64) or "").strip()
    known = inputs.text_if_there(f"/run/udev/data/b{device}", 1 << 16) if device else None
    by_udev = assignments(known or "").get("E:ID_PART_ENTRY_NAME")
    return by_udev or assignments(inputs.text(f"{base}/uevent", 1 << 16)).get("PARTNAME", "")
