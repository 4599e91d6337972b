"""Which bytes of an image matter, and which nobody will ever read.

A block of zeros is not the same as a block that does not matter. A file allocation table is mostly zeros, and so may be
a part of a dm-verity slot; left out, they would keep what the disk held before. Holes of a sparse file tell nothing
about that (a copy may have more or fewer of them), so what matters is read from the structures themselves, and what is
not understood matters as a whole.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from appliance_flash import gpt

Range = tuple[int, int]
"""From a byte up to, not including, another."""


def needed(image: BinaryIO, size: int) -> list[Range]:
    """The ranges that matter, in order, not touching each other. Raises `OSError`."""
    table = None if _is_iso(image) else gpt.read(image)
    if table is None:
        return [(0, size)]
    ranges = [(0, min(table.head, size)), (min(table.tail, size), size)]
    for part in table.partitions:
        start, end = min(part.start, size), min(part.end, size)
        ranges += [(start + low, min(start + high, end)) for low, high in _of_partition(image, start, end - start)]
    return joined(ranges)


def joined(ranges: list[Range]) -> list[Range]:
    """The same ranges in order, none of them touching another."""
    done: list[Range] = []
    for low, high in sorted(ranges):
        if low >= high:
            continue
        if done and low <= done[-1][1]:
            done[-1] = (done[-1][0], max(done[-1][1], high))
        else:
            done.append((low, high))
    return done


def _is_iso(image: BinaryIO) -> bool:
    image.seek(0x8001)
    return image.read(5) == b"CD001"


def _of_partition(image: BinaryIO, start: int, size: int) -> list[Range]:
    image.seek(start)
    first = image.read(4096)
    if first[510:512] == b"\x55\xaa" and first[82:87] == b"FAT32":
        return fat32(image, start, size, first)
    if first[:8] == b"verity\0\0":
        return [(0, verity_hash(first, size))]
    if first[1024:1028] == b"\xe2\xe1\xf5\xe0":
        return [(0, erofs(first, size))]
    return [(0, size)]


def erofs(first: bytes, size: int) -> int:
    """How many bytes an erofs takes (`blocks` << `blkszbits` of its superblock)."""
    block_bits = first[1024 + 12]
    (blocks,) = struct.unpack_from("<I", first, 1024 + 36)
    length = int(blocks) << block_bits if 9 <= block_bits <= 16 else size
    return min(length, size) or size


def verity_hash(first: bytes, size: int) -> int:
    """How many bytes a dm-verity hash device takes: its superblock and every level of its tree."""
    fields: tuple[int, int, int] = struct.unpack_from("<IIQ", first, 64)
    data_block, hash_block, blocks = fields
    algorithm = first[32:64].rstrip(b"\0")
    if algorithm != b"sha256" or hash_block not in (512, 1024, 2048, 4096) or not data_block or not blocks:
        return size
    fanout, total = hash_block // 32, 0
    while blocks > 1:
        blocks = -(-blocks // fanout)
        total += blocks
    return min(hash_block * (total + 1), size)


def fat32(image: BinaryIO, start: int, size: int, first: bytes) -> list[Range]:
    """The reserved sectors, every copy of the table, and the clusters that belong to a file or folder."""
    (sector,) = struct.unpack_from("<H", first, 11)
    cluster = first[13] * int(sector)
    reserved, copies = struct.unpack_from("<HB", first, 14)
    (sectors,) = struct.unpack_from("<I", first, 36)
    table, data = reserved * sector, (reserved + copies * sectors) * sector
    if not sector or not cluster or not sectors or not 0 < data <= size:
        return [(0, size)]
    image.seek(start + table)
    entries = image.read(sectors * sector)
    ranges = [(0, data)]
    count = min(len(entries) // 4, (size - data) // cluster + 2)
    # Most of a table is empty: look only at pieces that are not.
    for base in range(0, count, 1024):
        piece = entries[base * 4 : (base + 1024) * 4]
        if not any(piece):
            continue
        for index, value in enumerate(struct.unpack(f"<{len(piece) // 4}I", piece), base):
            if 2 <= index < count and value & 0x0FFFFFFF:
                at = data + (index - 2) * cluster
                ranges.append((at, at + cluster))
    return joined(ranges)
