"""A chunk index (caibx): which chunks, in which order, make up a file. Made by desync and casync alike.

Source: casync's caformat.h (an index header and a table, little endian throughout); ids are SHA-512/256.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

INDEX_TYPE = 0x96824D9C7B129FF9
TABLE_TYPE = 0xE75B9E112F17417D
TAIL_MARKER = 0x4B4F050E5549ECD1
SHA512_256 = 0x2000000000000000
"""The feature flag that says what the ids are; SHA-256 without it, which nobody makes any more."""

HEADER = struct.Struct("<QQQQQQ")
TABLE = struct.Struct("<QQ")
ITEM = struct.Struct("<Q32s")
TAIL = struct.Struct("<QQQQQ")
UNBOUNDED = 0xFFFFFFFFFFFFFFFF
LARGEST_CHUNK = 16 * 1024 * 1024
"""Bytes; chunks are held in memory one at a time."""


class IndexUnusable(ValueError):
    """An index that is not one, or not of this kind; the message says why."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a file: `length` bytes from `offset` on, whose SHA-512/256 is `id` (64 hex digits)."""

    id: str
    offset: int
    length: int


@dataclass(frozen=True)
class Index:
    """The chunks of a file, in order and without gaps. `sizes` are the smallest, average and largest chunk (bytes)."""

    chunks: tuple[Chunk, ...]
    sizes: tuple[int, int, int]

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return self.chunks[-1].offset + self.chunks[-1].length if self.chunks else 0


def parse(raw: bytes, longest: int) -> Index:
    """Read an index of a file of at most `longest` bytes. Raises `IndexUnusable`, and nothing else."""
    try:
        return _parse(raw, longest)
    except struct.error as error:
        raise IndexUnusable(f"it ends too early ({len(raw)} bytes)") from error


def _parse(raw: bytes, longest: int) -> Index:
    size, kind, flags, *sizes = HEADER.unpack_from(raw)
    if (size, kind) != (HEADER.size, INDEX_TYPE):
        raise IndexUnusable("it does not begin like a chunk index")
    if not flags & SHA512_256:
        raise IndexUnusable("its ids are not SHA-512/256")
    smallest, average, largest = sizes
    if not 0 < smallest <= average <= largest <= LARGEST_CHUNK:
        raise IndexUnusable(f"its chunk sizes are {smallest}:{average}:{largest}")
    if TABLE.unpack_from(raw, HEADER.size) != (UNBOUNDED, TABLE_TYPE):
        raise IndexUnusable("it has no table")
    begin, end = HEADER.size + TABLE.size, len(raw) - TAIL.size
    if end < begin or (end - begin) % ITEM.size:
        raise IndexUnusable(f"its table has {end - begin} bytes, not a number of items")
    if TAIL.unpack_from(raw, end) != (0, 0, HEADER.size, len(raw) - HEADER.size, TAIL_MARKER):
        raise IndexUnusable("its end is not that of a chunk index")
    return Index(_chunks(raw[begin:end], largest, longest), (smallest, average, largest))


def _chunks(table: bytes, largest: int, longest: int) -> tuple[Chunk, ...]:
    found, position = [], 0
    for end, identity in ITEM.iter_unpack(table):
        if not position < end <= position + largest:
            raise IndexUnusable(f"the chunk after byte {position} ends at byte {end}: chunks follow each other")
        if end > longest:
            raise IndexUnusable(f"it describes more than {longest} bytes")
        found.append(Chunk(identity.hex(), position, end - position))
        position = end
    return tuple(found)


def identity(content: bytes) -> str:
    """The id of a chunk with this content."""
    return hashlib.new("sha512_256", content, usedforsecurity=False).hexdigest()
