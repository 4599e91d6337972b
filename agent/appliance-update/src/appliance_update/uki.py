"""What a unified kernel image says about itself: its embedded kernel command line, its os-release.

Source: https://uapi-group.org/specifications/specs/unified_kernel_image/
"""

from __future__ import annotations

from pathlib import Path

from appliance_update.host import os_release_fields
from appliance_update.pe import START, PeError, headers

MAX_TEXT = 64 * 1024


class UkiError(ValueError):
    """A file that is not a unified kernel image with a command line; the message names it and the reason."""


def command_line(path: Path) -> str:
    """The text of the `.cmdline` section. Raises `UkiError`."""
    return section(path, ".cmdline")


def os_release(path: Path) -> dict[str, str]:
    """The fields of the `.osrel` section: by IMAGE_ID and IMAGE_VERSION the boot loader orders its entries.

    Raises `UkiError`.
    """
    return os_release_fields(section(path, ".osrel"))


def section(path: Path, name: str) -> str:
    """The text of a section. Raises `UkiError`."""
    try:
        with path.open("rb") as file:
            # The first of its name: those of further profiles come after the base's.
            found = next((one for one in headers(file.read(START)).sections if one.name == name), None)
            if found is None:
                raise UkiError(f"it has no {name} section")
            if found.length > MAX_TEXT:
                raise UkiError(f"its {name} section has {found.length} bytes")
            file.seek(found.offset)
            return file.read(found.length).rstrip(b"\0").decode("utf-8", "replace").strip()
    except OSError as error:
        raise UkiError(f"{path}: {error.strerror}") from error
    except (PeError, UkiError) as error:
        raise UkiError(f"{path} is not a unified kernel image: {error}") from error


def argument(text: str, name: str) -> str | None:
    """The last value of `name=` on a kernel command line, or None."""
    values = [word.partition("=")[2] for word in text.split() if word.startswith(f"{name}=")]
    return values[-1] if values else None
