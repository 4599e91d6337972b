"""What lies on this device already and a new version may be made of: both slots, and the kernel images on the ESP."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance_update.chunk_index import Chunk, Index, IndexUnusable, identity, parse
from appliance_update.device import Device, DeviceError, Slot, SlotState, inspect
from appliance_update.files import Unreadable, flush_directory, read_limited, write_whole
from appliance_update.gpt import TableEntry
from appliance_update.host import Host
from appliance_update.layout import Layout, Role

INDEX_LIMIT = 32 * 1024 * 1024
"""Bytes of an index; one of a full slot in the smallest chunks has 8 MiB."""
LOOP_DEADLINE = 30.0
SETTLE_DEADLINE = 10

SECTOR = 512
"""Bytes; a loop device is made of whole ones, and so is every filesystem."""


class NotExposed(RuntimeError):
    """A part of the disk that could not be shown as a file of its own; the message says why."""


@dataclass(frozen=True)
class Place:
    """Where a version's content lies: in a slot of the disk, or a file on the ESP. Lengths in bytes."""

    version: str
    file: Path
    offset: int
    longest: int


@dataclass(frozen=True)
class Seed:
    """A place, and the index of what it should hold. Nothing is believed before it was read."""

    place: Place
    index: Index
    index_file: Path

    def holds(self, wanted: set[str]) -> set[str]:
        """Those of the wanted ids whose bytes are really there. A place that cannot be read holds nothing."""
        found: set[str] = set()
        try:
            handle = os.open(self.place.file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return found
        try:
            for chunk in self.index.chunks:
                if chunk.id in wanted and chunk.id not in found and self._read(handle, chunk) == chunk.id:
                    found.add(chunk.id)
        finally:
            os.close(handle)
        return found

    def _read(self, handle: int, chunk: Chunk) -> str:
        with contextlib.suppress(OSError):  # a bad block is a chunk that is not there
            return identity(os.pread(handle, chunk.length, self.place.offset + chunk.offset))
        return ""

    @contextmanager
    def exposed(self) -> Iterator[Path]:
        """The content as a file of its own length, for programs that know nothing of offsets. Raises `NotExposed`."""
        if self.place.offset == 0 and self.place.file.is_file() and self.place.file.stat().st_size == self.index.length:
            yield self.place.file
            return
        if self.place.offset % SECTOR or self.index.length % SECTOR:
            raise NotExposed(f"{self.place.file} from byte {self.place.offset} on is not made of whole sectors")
        window = ["--offset", str(self.place.offset), "--sizelimit", str(self.index.length)]
        loop = _losetup("--find", "--show", "--read-only", *window, str(self.place.file))
        try:
            handle = os.open(loop, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            _losetup("--detach", loop)
            raise NotExposed(f"{loop} cannot be opened: {error.strerror}") from error
        try:
            _losetup("--detach", loop)  # while it is open: it goes when we close it, and also when we are killed
            _settle()
            yield Path(loop)
        finally:
            os.close(handle)


def _losetup(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["losetup", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LOOP_DEADLINE,
            check=True,
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise NotExposed(f"losetup {arguments[0]} failed: {said.strip()[:200]}") from error
    return done.stdout.strip()


def _settle() -> None:
    """Wait until udev is done with a new device: it touches the node, and casync takes that for a change of content."""
    with contextlib.suppress(subprocess.SubprocessError, OSError):  # where there is no udev, nobody touches it
        subprocess.run(
            ["udevadm", "settle", f"--timeout={SETTLE_DEADLINE}"], stdin=subprocess.DEVNULL, capture_output=True,
            timeout=LOOP_DEADLINE, check=False,
        )  # fmt: skip


@dataclass(frozen=True)
class Indexes:
    """The indexes of what is installed and of what is being fetched, one folder a version."""

    directory: Path

    def path(self, version: str, role: str) -> Path:
        """Where an index lies, or would."""
        return self.directory / version / f"{role}.caibx"

    def read(self, version: str, role: str, longest: int) -> Index:
        """A kept index. Raises `OSError`, `IndexUnusable`."""
        try:
            return parse(read_limited(self.path(version, role), INDEX_LIMIT), longest)
        except Unreadable as error:
            raise IndexUnusable(str(error)) from error

    def keep(self, version: str, role: str, content: bytes) -> None:
        """Keep an index. Raises `OSError`."""
        write_whole(self.path(version, role), content)

    def forget_all_but(self, versions: set[str]) -> None:
        """Remove the indexes of other versions."""
        for folder in self.directory.iterdir() if self.directory.is_dir() else ():
            if folder.name in versions:
                continue
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            folder.rmdir()
            flush_directory(self.directory)


@dataclass(frozen=True)
class Installed:
    """This device's slots, as places to take chunks from."""

    host: Host
    layout: Layout
    indexes: Indexes

    def device(self) -> Device | None:
        """The device, or None when its slots cannot be told: then there are no seeds."""
        try:
            return inspect(self.host, self.layout)
        except DeviceError:
            return None

    def versions(self) -> set[str]:
        """The versions in the slots."""
        device = self.device()
        return {slot.version for slot in device.slots if slot.version} if device else set()

    def places(self, role: Role) -> list[Place]:
        """Where something like an artifact of this role lies, the running version first."""
        device = self.device()
        if device is None:
            return []
        return [place for slot in (device.booted, device.standby) for place in self._places(device, slot, role)]

    def _places(self, device: Device, slot: Slot, role: Role) -> list[Place]:
        if not slot.version or slot.state not in (SlotState.BOOTED, SlotState.STANDBY):
            return []
        if role is Role.UKI:
            own = [entry.path for entry in device.entries if entry.version == slot.version]
            return [Place(slot.version, path, 0, path.stat().st_size) for path in own if path.is_file()]
        part: TableEntry = slot.data if role is Role.DATA else slot.verity
        return [Place(slot.version, device.disk, part.start, part.size)]
