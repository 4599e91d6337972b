"""What a unified kernel image says about itself: its embedded kernel command line, its os-release.

Sources: PE/COFF specification; https://uapi-group.org/specifications/specs/unified_kernel_image/
"""

from __future__ import annotations

import struct
from pathlib import Path

MAX_TEXT = 64 * 1024


class UkiError(ValueError):
    """A file that is not a unified kernel image with a command line; the message names it and the reason."""


def command_line(path: Path) -> str:
    """The text of the `.cmdline` section. Raises `UkiError`."""
    return section(path, ".cmdline")


def section(path: Path, name: str) -> str:
    """The text of a section. Raises `UkiError`."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
            sections = _sections(start)
            if name not in sections:
                raise UkiError(f"it has no {name} section")
            offset, size = sections[name]
            if size > MAX_TEXT:
                raise UkiError(f"its {name} section has {size} bytes")
            file.seek(offset)
            return file.read(size).rstrip(b"\0").decode("utf-8", "replace").strip()
    except OSError as error:
        raise UkiError(f"{path}: {error.strerror}") from error
    except (struct.error, UkiError) as error:
        raise UkiError(f"{path} is not a unified kernel image: {error}") from error


def _sections(start: bytes) -> dict[str, tuple[int, int]]:
    if start[:2] != b"MZ":
        raise UkiError("it does not begin like a PE file")
    header = struct.unpack_from("<I", start, 0x3C)[0]
    if start[header : header + 4] != b"PE\0\0":
        raise UkiError("it has no PE header")
    count, optional = struct.unpack_from("<H", start, header + 6)[0], struct.unpack_from("<H", start, header + 20)[0]
    found: dict[str, tuple[int, int]] = {}
    for index in range(min(count, 64)):
        at = header + 24 + optional + index * 40
        name, virtual, _address, size, offset = struct.unpack_from("<8sIIII", start, at)
        section = name.rstrip(b"\0").decode("ascii", "replace")
        found.setdefault(section, (offset, min(virtual, size) if virtual else size))  # profiles come after the base
    return found


def argument(text: str, name: str) -> str | None:
    """The last value of `name=` on a kernel command line, or None."""
    values = [word.partition("=")[2] for word in text.split() if word.startswith(f"{name}=")]
    return values[-1] if values else None
