"""The GUID partition table of an image or device (UEFI specification 2.10, section 5.3)."""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass
from typing import BinaryIO

SECTOR = 512
ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
BASIC_DATA = uuid.UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")
_HEADER = struct.Struct("<8s4sII4xQQQQ16sQIII")


@dataclass(frozen=True)
class Partition:
    """One partition; `start` and `size` in bytes."""

    kind: uuid.UUID
    start: int
    size: int
    label: str

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + self.size


@dataclass(frozen=True)
class Table:
    """A partition table. `head` is the end of what the first copy takes, `tail` where the second begins, in bytes."""

    partitions: tuple[Partition, ...]
    head: int
    tail: int


def read(image: BinaryIO, header: int = SECTOR) -> Table | None:
    """The table whose header is there; None when there is none whose checksums are right. Raises `OSError`."""
    image.seek(header)
    raw = image.read(SECTOR)
    if len(raw) < _HEADER.size or raw[:8] != b"EFI PART":
        return None
    _, _, length, checksum, _, other, _, last, _, at, count, width, entries_checksum = _HEADER.unpack_from(raw)
    if not _HEADER.size <= length <= SECTOR or not 128 <= width <= 4096 or count > 1024:
        return None
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:length]) != checksum:
        return None
    image.seek(at * SECTOR)
    entries = image.read(count * width)
    if len(entries) < count * width or zlib.crc32(entries) != entries_checksum:
        return None
    found = [_partition(entries[place : place + width]) for place in range(0, len(entries), width)]
    head = at * SECTOR + len(entries)
    return Table(tuple(part for part in found if part is not None), head, min((last + 1) * SECTOR, other * SECTOR))


def _partition(entry: bytes) -> Partition | None:
    kind = uuid.UUID(bytes_le=entry[:16])
    if kind.int == 0:
        return None
    first, last = struct.unpack_from("<QQ", entry, 32)
    label = entry[56:128].decode("utf-16-le", errors="replace").partition("\0")[0]
    return Partition(kind, first * SECTOR, (last - first + 1) * SECTOR, label)
