"""The headers of a PE file, as unified kernel images and boot loaders are.

Source: Microsoft's PE format, https://learn.microsoft.com/windows/win32/debug/pe-format
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

START = 64 * 1024
"""Bytes at the start of a file in which the headers of any kernel image are."""


class PeError(ValueError):
    """Bytes that are not the start of a PE file; the message says why."""


@dataclass(frozen=True)
class Section:
    """A section: where it is in the file, how long it is there, and how long it is in memory (bytes)."""

    name: str
    offset: int
    size: int
    virtual: int

    @property
    def length(self) -> int:
        """Bytes of its content in the file, without the padding behind it."""
        return min(self.virtual, self.size) if self.virtual else self.size


@dataclass(frozen=True)
class Headers:
    """Where the optional header begins, and the sections in the order of the file's table."""

    optional: int
    sections: tuple[Section, ...]


def headers(start: bytes | memoryview) -> Headers:
    """The headers of a file that begins so. Raises `PeError`."""
    try:
        if bytes(start[:2]) != b"MZ":
            raise PeError("it does not begin like a PE file")
        header = struct.unpack_from("<I", start, 0x3C)[0]
        if bytes(start[header : header + 4]) != b"PE\0\0":
            raise PeError("it has no PE header")
        (count,), (length,) = (struct.unpack_from("<H", start, header + place) for place in (6, 20))
        table = header + 24 + length
        return Headers(header + 24, tuple(_section(start, table + index * 40) for index in range(count)))
    except struct.error as error:
        raise PeError("its headers go beyond its end") from error


def _section(start: bytes | memoryview, at: int) -> Section:
    name, virtual, _address, size, offset = struct.unpack_from("<8sIIII", start, at)
    return Section(name.rstrip(b"\0").decode("ascii", "replace"), offset, size, virtual)
