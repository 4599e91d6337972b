"""Putting a site's files into the FAT partition of a medium, a disk or an image of either."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from appliance_flash import devices, gpt, images, programs
from appliance_flash.errors import FlashError, Unusable

FOLDER = "appliance-seed"
"""Where the installer and the appliance look."""


def preflight() -> None:
    """The programs that will be called. Raises `Missing`."""
    for program in ("mdir", "mdel", "mmd", "mcopy"):
        programs.find(program)


def partition(path: Path) -> int:
    """Where the FAT partition of a medium or image begins, in bytes. Raises `Unusable`."""
    if path.is_file() and images.find(path).compressed:
        raise Unusable(f"{path} is compressed. Unpack it first (zstd -d), or write it and seed the device.")
    with path.open("rb") as file:
        table = gpt.read(file)
        for part in table.partitions if table else ():
            file.seek(part.start)
            sector = file.read(512)
            if part.kind in (gpt.ESP, gpt.BASIC_DATA) and sector[510:] == b"\x55\xaa" and b"FAT" in sector[54:90]:
                return part.start
    raise Unusable(f"{path} has no boot partition. Is it an installation medium, or an appliance's disk?")


def seed(path: Path, files: Mapping[str, str]) -> None:
    """Replace what lies in the folder by `files` (none: clear it), and read it back.

    Raises `FlashError` and `Unusable`.
    """
    place = f"{path}@@{partition(path)}"
    try:
        _replace(path, place, files)
        _read_back(path, place, files)
    except (OSError, subprocess.SubprocessError) as error:
        raise FlashError(f"the boot partition of {path} cannot be written to: {error}.") from error


def _replace(path: Path, place: str, files: Mapping[str, str]) -> None:
    if programs.run(["mdir", "-i", place, "-b", f"::{FOLDER}"]).returncode == 0:
        _mtools(path, "mdel", "-i", place, f"::{FOLDER}/*", accept_failure=True)
    else:
        _mtools(path, "mmd", "-i", place, f"::{FOLDER}")
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in files.items():
            (Path(scratch) / name).write_text(text)
            _mtools(path, "mcopy", "-o", "-i", place, str(Path(scratch) / name), f"::{FOLDER}/{name}")


def _read_back(path: Path, place: str, files: Mapping[str, str]) -> None:
    with path.open("rb") as file:
        # What is in memory is what was meant; read what is on the device.
        devices.flush(file.fileno())
    for name, text in files.items():
        back = programs.run(["mcopy", "-n", "-i", place, f"::{FOLDER}/{name}", "-"])
        if back.stdout != text.encode():
            raise FlashError(f"{name} reads back differently from {path}. The device is broken; take another one.")


def _mtools(path: Path, *arguments: str, accept_failure: bool = False) -> None:
    done = programs.run(arguments)
    if done.returncode != 0 and not accept_failure:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise FlashError(f"the boot partition of {path} cannot be written to: {said[-1] if said else arguments[0]}.")
