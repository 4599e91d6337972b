"""Block devices: what they are, how they are attached, and what of them is in use.

Everything is read from /sys and /proc. `removable` alone is not believed: sticks in docks and SATA controllers set it
wrongly; what hangs on USB or is a memory card counts as removable too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance_flash import programs
from appliance_flash.errors import Refused

SYS = Path("/sys")
PROC = Path("/proc")
DEV = Path("/dev")
_BLKFLSBUF = 0x1261
_NOT_LISTED = re.compile(r"(loop|ram|zram|sr|fd|nbd|dm-|md)\d|mmcblk\d+(boot\d|rpmb)")


@dataclass(frozen=True)
class Device:
    """A whole disk. `size` in bytes; `mounted` are the places where something of it is in use."""

    path: Path
    model: str
    size: int
    transport: str
    removable: bool
    read_only: bool
    mounted: tuple[str, ...]
    number: str
    """Major and minor number, as `8:16`."""
    sequence: str = ""
    """The kernel's count of disks: another one under the same name has another."""
    serial: str = ""
    sector: int = 512

    @property
    def name(self) -> str:
        """What a person types to confirm, such as `sdb`."""
        return self.path.name

    @property
    def holds_root(self) -> bool:
        """Whether this machine itself runs from it."""
        return "/" in self.mounted


def every(sys: Path = SYS, proc: Path = PROC) -> list[Device]:
    """The disks of this machine, by name; loop devices and the like are not among them."""
    found = [entry.name for entry in sorted((sys / "block").iterdir()) if not _NOT_LISTED.match(entry.name)]
    devices = [describe(name, sys, proc) for name in found]
    return [device for device in devices if device.size]


def find(path: Path) -> Device:
    """The disk a path names (symlinks are followed). Raises `Refused`."""
    real = path.resolve()
    try:
        facts = real.stat()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror or error}. `appliance-flash list` shows the disks.") from error
    if not stat.S_ISBLK(facts.st_mode):
        raise Refused(f"{path} is not a disk. `appliance-flash list` shows them.")
    number = f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}"
    entry = (SYS / "dev/block" / number).resolve()
    if (entry / "partition").exists():
        whole = entry.parent.name
        raise Refused(f"{path} is a partition. An image goes to the whole disk: /dev/{whole}.")
    return describe(entry.name)


def describe(name: str, sys: Path = SYS, proc: Path = PROC) -> Device:
    """What the kernel knows of a disk, by its name in /sys/block."""
    entry = sys / "block" / name
    transport = _transport(entry)
    return Device(
        path=DEV / name,
        model=_model(entry),
        size=int(_read(entry / "size") or 0) * 512,
        transport=transport,
        removable=_read(entry / "removable") == "1" or transport in ("usb", "card"),
        read_only=_read(entry / "ro") == "1",
        mounted=tuple(_in_use(entry, proc)),
        number=_read(entry / "dev"),
        sequence=_read(entry / "diskseq"),
        serial=_read(entry / "device/serial") or _read(entry / "device/wwid"),
        sector=int(_read(entry / "queue/logical_block_size") or 512),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _model(entry: Path) -> str:
    vendor = _read(entry / "device/vendor")
    # An eMMC has no model but a name; a PCI id is nobody's vendor.
    model = _read(entry / "device/model") or _read(entry / "device/name") or _read(entry / "loop/backing_file")
    return f"{vendor} {model}".strip() if vendor and not vendor.startswith("0x") and vendor != "ATA" else model


def _transport(entry: Path) -> str:
    path = str(entry.resolve())
    if "/mmc_host/" in path:
        return "emmc" if _read(entry / "device/type") == "MMC" else "card"
    known = {"/usb": "usb", "/nvme": "nvme", "/ata": "sata", "/virtio": "virtio", "/virtual/block/loop": "loop"}
    return next((name for part, name in known.items() if re.search(rf"{part}[0-9-]?", path)), "")


def _in_use(entry: Path, proc: Path) -> Iterator[str]:
    """Where the disk, its partitions and everything stacked on them is mounted or otherwise held."""
    numbers, stacked = _stack(entry)
    places = {where for number, where in _mounts(proc) if number in numbers}
    places |= {f"swap on {path}" for number, path in _swaps(proc) if number in numbers}
    yield from sorted(places)
    if not places and stacked:
        yield f"held by {stacked[0]}"


def _stack(entry: Path) -> tuple[set[str], list[str]]:
    """The numbers of the disk, its partitions and all that is stacked on them; and the names of what is stacked."""
    numbers, stacked = set(), []
    queue = [entry]
    while queue:
        current = queue.pop()
        numbers.add(_read(current / "dev"))
        for part in current.iterdir():
            if (part / "partition").exists():
                queue.append(part)
        holders = current / "holders"
        for holder in sorted(holders.iterdir()) if holders.is_dir() else ():
            stacked.append(holder.name)
            queue.append(holder.resolve())
    return numbers, stacked


def _mounts(proc: Path) -> Iterator[tuple[str, str]]:
    """Device number and place of every mount; btrfs has numbers of its own, so its source is looked at too."""
    for line in _read(proc / "self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, source = left.split(), [*right.split(), "", ""][1]
        if len(fields) > 4:
            where = fields[4].replace("\\040", " ")
            yield fields[2], where
            yield _number(Path(source)), where


def _swaps(proc: Path) -> Iterator[tuple[str, str]]:
    for line in _read(proc / "swaps").splitlines()[1:]:
        path = line.split()[0]
        yield _number(Path(path)), path


def _number(path: Path) -> str:
    if not path.is_absolute():
        return ""
    try:
        facts = path.stat()
    except OSError:
        return ""
    return f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}" if stat.S_ISBLK(facts.st_mode) else ""


def check(device: Device, *, force: bool) -> None:
    """Refuse what must not be written to. `force` allows a disk that is built in or in use, never the one with `/`.

    Raises `Refused`.
    """
    if device.holds_root:
        raise Refused(f"{device.path} is the disk this machine runs from. It is never written to.")
    if device.read_only:
        raise Refused(f"{device.path} is write-protected. Look for a switch on the stick or card.")
    if device.size == 0:
        raise Refused(f"{device.path} has no medium in it.")
    if force:
        return
    if device.mounted:
        raise Refused(f"{device.path} is in use: {', '.join(device.mounted)}. Unmount it (or --force).")
    if not device.removable:
        what = f"{device.path} ({device.model or 'unknown model'})"
        raise Refused(f"{what} is built into this machine. If it is really the one, say --force.")


def release(device: Device) -> None:
    """Unmount what is mounted of a disk that a person has said may go. Raises `Refused`."""
    for place in device.mounted:
        if not place.startswith("/") or not _unmounted(place):
            raise Refused(f"{device.path} is in use and cannot be let go of: {place}. Stop what uses it first.")


def _unmounted(place: str) -> bool:
    try:
        return programs.run(["umount", place]).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def confirm(device: Device) -> Device:
    """The same disk as it is now: what is mounted may have changed. Raises `Refused` when its name has another disk."""
    try:
        now = describe(device.name)
    except OSError as error:
        raise Refused(f"{device.path} is gone. Plug it in and begin again.") from error
    if _identity(now) != _identity(device):
        raise Refused(f"{device.path} is another disk now than the one that was chosen. Begin again.")
    return now


def _identity(device: Device) -> tuple[str | int, ...]:
    return device.number, device.sequence, device.size, device.serial, device.model


@contextlib.contextmanager
def held(device: Device) -> Iterator[int]:
    """The device, open for nobody else: what /sys and /proc do not show (another namespace's mount) the kernel knows.

    Raises `Refused`.
    """
    try:
        file = os.open(device.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Refused(f"{device.path} is in use, by something this tool does not see. Stop it first.") from error
        raise Refused(f"{device.path} cannot be opened for writing: {error.strerror}.") from error
    try:
        number = os.fstat(file).st_rdev
        if f"{os.major(number)}:{os.minor(number)}" != device.number:
            raise Refused(f"{device.path} is another disk now than the one that was chosen. Begin again.")
        yield file
    finally:
        os.close(file)


def flush(file: int) -> None:
    """Bring what was written to the device, and forget it: what is read next comes from there. Raises `OSError`."""
    os.fsync(file)
    if stat.S_ISBLK(os.fstat(file).st_mode):
        fcntl.ioctl(file, _BLKFLSBUF, 0)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def carries(device: Device, path: Path) -> bool:
    """Whether a file lies on the device, or is the device. Raises `OSError`."""
    facts = path.stat()
    numbers = _stack((SYS / "block" / device.name).resolve())[0]
    ours = {f"{os.major(number)}:{os.minor(number)}" for number in (facts.st_dev, facts.st_rdev)} & numbers
    # btrfs counts its file systems by numbers of its own: ask the places.
    return bool(ours) or any(Path(at).stat().st_dev == facts.st_dev for at in device.mounted if at.startswith("/"))
