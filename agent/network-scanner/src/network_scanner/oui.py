"""Who made a network interface: a compact table of all four IEEE registries, looked up by the longest prefix first.

`python -m network_scanner.oui compile` makes `data/oui.bin` from the IEEE's public listings (Debian: ieee-data). A
24-bit look-up alone answers "IEEE Registration Authority" for about half of the medical vendors, which hold 28 and
36 bit blocks.

File: magic, three section counts, size of the names (all big-endian u32), then for 36, 28 and 24 bits the sorted keys
(5, 4, 3 bytes each) followed by as many u24 offsets into the names (one length byte, UTF-8). It stays on disk: a
look-up is a few dozen small reads of what the kernel caches anyway, and neither start-up nor memory pays for a megabyte
of names.
"""

from __future__ import annotations

import csv
import os
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from network_scanner.addresses import is_local, mac_bytes
from network_scanner.text import clean

MAGIC = b"OUI1"
HEADER = struct.Struct(">4s4I")
SECTIONS = ((36, 5), (28, 4), (24, 3))
"""Prefix length in bits and bytes per key, longest first."""
REGISTRIES = ("oui.csv", "mam.csv", "oui36.csv", "iab.csv")
"""MA-L, MA-M, MA-S and IAB, as the Debian package names the files."""
NAME_LIMIT = 80


class OuiError(ValueError):
    """A vendor table, or a registry listing, that cannot be read."""


@dataclass(frozen=True)
class _Section:
    bits: int
    width: int
    keys: int
    count: int

    @property
    def offsets(self) -> int:
        return self.keys + self.width * self.count


class TableFile:
    """An open file that is read in slices, like bytes."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises `OSError`."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._descriptor).st_size

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        return os.pread(self._descriptor, max(stop - start, 0), start)


class VendorTable:
    """The compiled table. Safe to share; holds one open file."""

    def __init__(self, data: bytes | TableFile) -> None:
        """Take a compiled table. Raises `OuiError` when they are damaged."""
        if len(data) < HEADER.size:
            raise OuiError("the vendor table is shorter than its header")
        magic, *counts, names = HEADER.unpack(data[: HEADER.size])
        if magic != MAGIC:
            raise OuiError("the vendor table has the wrong magic number")
        position = HEADER.size
        sections = []
        for (bits, width), count in zip(SECTIONS, counts, strict=True):
            sections.append(_Section(bits, width, position, count))
            position += count * (width + 3)
        if position + names != len(data):
            raise OuiError(f"the vendor table has {len(data)} bytes, its header says {position + names}")
        self._data, self._sections, self._names = data, tuple(sections), position

    @classmethod
    def load(cls, path: Path | None = None) -> VendorTable:
        """Open the table at `path`, by default the one shipped with the package. Raises `OuiError` or `OSError`."""
        place = path or Path(str(resources.files("network_scanner") / "data" / "oui.bin"))
        return cls(TableFile(place))

    def __len__(self) -> int:
        return sum(section.count for section in self._sections)

    def vendor(self, mac: str) -> str:
        """The organisation that holds the longest prefix of `mac`, or an empty string.

        A locally administered address was made up by software; it never has a vendor.
        """
        if is_local(mac):
            return ""
        value = int.from_bytes(mac_bytes(mac), "big")
        for section in self._sections:
            found = self._find(section, value >> (48 - section.bits))
            if found:
                return found
        return ""

    def _find(self, section: _Section, key: int) -> str:
        low, high = 0, section.count
        while low < high:
            middle = (low + high) // 2
            at = section.keys + middle * section.width
            probe = int.from_bytes(self._data[at : at + section.width], "big")
            if probe == key:
                return self._name(section.offsets + 3 * middle)
            low, high = (middle + 1, high) if probe < key else (low, middle)
        return ""

    def _name(self, at: int) -> str:
        start = self._names + int.from_bytes(self._data[at : at + 3], "big")
        if start >= len(self._data):
            raise OuiError("the vendor table points outside itself")
        length = self._data[start : start + 1][0]
        return self._data[start + 1 : start + 1 + length].decode("utf-8", "replace")


def read_registry(lines: Iterator[str]) -> Iterator[tuple[int, int, str]]:
    """Prefix length in bits, prefix and organisation of each line of an IEEE CSV listing; unreadable lines are skipped.

    The length follows from the assignment itself (6, 7 or 9 hexadecimal digits), not from the registry's name.
    """
    reader = csv.reader(lines)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            continue
        if len(row) < 3:
            continue
        bits = 4 * len(row[1])
        name = clean(row[2], NAME_LIMIT)
        if bits not in (24, 28, 36) or not name or name == "IEEE Registration Authority":
            continue
        try:
            yield bits, int(row[1], 16), name
        except ValueError:
            continue


def compile_table(entries: Mapping[tuple[int, int], str]) -> bytes:
    """The table's bytes from (bits, prefix) to name. Raises `OuiError` when the names need more than 16 MiB."""
    names, offsets = bytearray(), dict[str, int]()
    for name in sorted(set(entries.values())):
        raw = name.encode()[:255].decode("utf-8", "ignore").encode()
        offsets[name] = len(names)
        names += bytes([len(raw)]) + raw
    if len(names) >= 1 << 24:
        raise OuiError("too many names for 24-bit offsets")
    body, counts = bytearray(), []
    for bits, width in SECTIONS:
        keys = sorted(prefix for size, prefix in entries if size == bits)
        counts.append(len(keys))
        body += b"".join(key.to_bytes(width, "big") for key in keys)
        body += b"".join(offsets[entries[bits, key]].to_bytes(3, "big") for key in keys)
    return HEADER.pack(MAGIC, *counts, len(names)) + bytes(body) + bytes(names)


def compile_directory(source: Path) -> bytes:
    """The table of the four listings in `source`. Raises `OuiError` when one is missing or empty."""
    entries: dict[tuple[int, int], str] = {}
    for registry in REGISTRIES:
        path = source / registry
        before = len(entries)
        try:
            with path.open(encoding="utf-8", errors="replace", newline="") as file:
                for bits, prefix, name in read_registry(iter(file)):
                    # A prefix listed twice (a few are) keeps its first holder.
                    entries.setdefault((bits, prefix), name)
        except OSError as error:
            raise OuiError(f"{path}: {error.strerror}; install the package ieee-data") from error
        if len(entries) == before:
            raise OuiError(f"{path}: no assignment could be read")
    return compile_table(entries)


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] != "compile" or len(arguments) > 3:
        sys.stderr.write("usage: python -m network_scanner.oui compile [SOURCE-DIRECTORY [TARGET]]\n")
        return 2
    source = Path(arguments[1] if len(arguments) > 1 else "/usr/share/ieee-data")
    target = Path(arguments[2]) if len(arguments) > 2 else Path(__file__).parent / "data" / "oui.bin"
    try:
        data = compile_directory(source)
    except OuiError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    target.write_bytes(data)
    sys.stdout.write(f"{target}: {len(VendorTable(data))} prefixes, {len(data)} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
