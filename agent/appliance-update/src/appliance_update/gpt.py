"""Reading a GUID partition table. Writing one is systemd-repart's and systemd-sysupdate's work, never ours.

Source: UEFI specification 2.10, chapter 5.3.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

HEADER = struct.Struct("<8s4sIIIQQQQ16sQIII")
ENTRY = struct.Struct("<16s16sQQQ72s")
MAX_ENTRIES = 1024

# The types systemd knows by name (Discoverable Partitions Specification), x86-64.
TYPES = {
    uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"): "esp",
    uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"): "root",
    uuid.UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"): "root-verity",
    uuid.UUID("8484680c-9521-48c6-9c11-b0720656f69e"): "usr",
    uuid.UUID("77ff5f63-e7b6-4633-acf4-1565b864c0e6"): "usr-verity",
    uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4"): "linux-generic",
}


class TableError(ValueError):
    """A disk whose partition table cannot be read; the message names the disk and the reason."""


@dataclass(frozen=True)
class TableEntry:
    """One partition. `start` and `size` are bytes; `type` is systemd's name or the type's UUID."""

    number: int
    type: str
    uuid: uuid.UUID
    label: str
    start: int
    size: int
    flags: int = 0


def read_table(disk: Path, sector_size: int = 512) -> tuple[TableEntry, ...]:
    """The partitions of `disk` (a device or an image file), in order of their number. Raises `TableError`."""
    try:
        with disk.open("rb") as file:
            try:
                file.seek(sector_size)
                return _entries(file.read(sector_size), file, sector_size)
            except (TableError, struct.error):
                file.seek(-sector_size, 2)  # the backup header lies in the last sector
                return _entries(file.read(sector_size), file, sector_size)
    except OSError as error:
        raise TableError(f"{disk}: {error.strerror}") from error
    except (TableError, struct.error) as error:
        raise TableError(f"{disk}: {error}") from error


def _entries(header: bytes, file: BinaryIO, sector_size: int) -> tuple[TableEntry, ...]:
    signature, _, size, checksum, _, _, _, _, _, _, table, count, width, table_sum = HEADER.unpack_from(header)
    if signature != b"EFI PART":
        raise TableError("no GUID partition table")
    if not HEADER.size <= size <= len(header):
        raise TableError(f"the table's header claims {size} bytes")
    if zlib.crc32(header[:16] + bytes(4) + header[20:size]) != checksum:
        raise TableError("the table's header has a wrong checksum")
    if count > MAX_ENTRIES or width < ENTRY.size or width > 4096:
        raise TableError(f"the table claims {count} entries of {width} bytes")
    file.seek(table * sector_size)
    raw = file.read(count * width)
    if len(raw) != count * width or zlib.crc32(raw) != table_sum:
        raise TableError("the table's entries have a wrong checksum")
    found = []
    for index in range(count):
        kind, identity, first, last, flags, name = ENTRY.unpack_from(raw, index * width)
        if kind == bytes(16):
            continue
        type_uuid = uuid.UUID(bytes_le=kind)
        found.append(
            TableEntry(
                number=index + 1,
                type=TYPES.get(type_uuid, str(type_uuid)),
                uuid=uuid.UUID(bytes_le=identity),
                label=name.decode("utf-16-le", "replace").partition("\0")[0],
                start=first * sector_size,
                size=(last - first + 1) * sector_size,
                flags=flags,
            )
        )
    return tuple(found)
