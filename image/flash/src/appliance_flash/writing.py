"""Writing an image to a device with bmaptool, and reading back what was written."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from appliance_flash import blockmap, devices, gpt, programs
from appliance_flash.blockmap import BlockMap
from appliance_flash.devices import Device
from appliance_flash.errors import FlashError, Refused
from appliance_flash.images import Image

Progress = Callable[[str, int, int], None]
"""Told the step (`writing`, `checking`), the bytes done and all bytes."""

_BLKFLSBUF = 0x1261
_LOOK_S = 0.2


def preflight(device: Device, found: BlockMap) -> None:
    """What can be known before the first byte. Raises `Refused`."""
    if found.image_size > device.size:
        raise Refused(f"{device.path} has {device.size} bytes, and the image needs {found.image_size}. Too small.")


def write(image: Image, found: BlockMap, device: Device, progress: Progress) -> None:
    """Write, read back, compare. After a failure the device carries no partition table. Raises `FlashError`."""
    try:
        _forget(device)
        _copy(image, found, device, progress)
        verify(found, device, progress)
        _finish(found, device)
    except BaseException:
        _spoil(device)
        raise


def _forget(device: Device) -> None:
    """Remove the marks of what was there: old tables, also at the end of the disk, and file systems."""
    parts = sorted(path.name for path in (devices.SYS / "block" / device.path.name).glob(f"{device.name}*"))
    for path in [*(device.path.with_name(name) for name in parts), device.path]:
        if path.exists():
            done = programs.run(["wipefs", "--all", "--force", "--quiet", str(path)])
            if done.returncode != 0:
                raise FlashError(f"{path} cannot be written to: {_last(done.stderr)}.")


def _copy(image: Image, found: BlockMap, device: Device, progress: Progress) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        bmap = Path(scratch) / "map.bmap"
        bmap.write_text(found.to_xml())
        # bmaptool knows compression by the name.
        named = Path(scratch) / ("image.zst" if image.compressed else "image.raw")
        named.symlink_to(image.path.resolve())
        log = Path(scratch) / "log"
        command = [programs.find("bmaptool"), "copy", "--bmap", str(bmap), str(named), str(device.path)]
        before = _sectors_written(device)
        with log.open("wb") as output, subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"LC_ALL": "C"}
        ) as process:
            try:
                while process.poll() is None:
                    done = (_sectors_written(device) - before) * 512
                    progress("writing", min(done, found.mapped_bytes), found.mapped_bytes)
                    time.sleep(_LOOK_S)
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            raise FlashError(
                f"writing to {device.path} failed: {_last(log.read_bytes())}. The device or the image is damaged; "
                "try once more, with another device if it happens again."
            )
        progress("writing", found.mapped_bytes, found.mapped_bytes)


def _sectors_written(device: Device) -> int:
    """What has reached the device since the start of this machine, in sectors (not what waits in memory)."""
    fields = (devices.SYS / "dev/block" / device.number / "stat").read_text().split()
    return int(fields[6])


def verify(found: BlockMap, device: Device, progress: Progress) -> None:
    """Read every mapped range from the device itself and compare. Raises `FlashError`."""
    done = 0
    with device.path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        # What is in memory is what was meant; read what is on the device.
        fcntl.ioctl(file.fileno(), _BLKFLSBUF, 0)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for start, length, expected in found.byte_spans():
            digest = hashlib.new(found.algorithm)
            for at in range(start, start + length, blockmap.PIECE):
                wanted = min(blockmap.PIECE, start + length - at)
                digest.update(_pread(file.fileno(), wanted, at, device))
                done += wanted
                progress("checking", done, found.mapped_bytes)
            if digest.hexdigest() != expected:
                raise FlashError(
                    f"what was read back from {device.path} is not what was written (bytes {start} to "
                    f"{start + length - 1}). The device is broken or not as large as it says; take another one."
                )


def _pread(file: int, length: int, at: int, device: Device) -> bytes:
    pieces = []
    while length:
        try:
            piece = os.pread(file, length, at)
        except OSError as error:
            raise FlashError(f"{device.path} cannot be read at byte {at}: {error.strerror}. Replace it.") from error
        if not piece:
            raise FlashError(f"{device.path} ends at byte {at}. It is not as large as it says; take another one.")
        pieces.append(piece)
        length -= len(piece)
        at += len(piece)
    return b"".join(pieces)


def _finish(found: BlockMap, device: Device) -> None:
    """The second copy of a disk image's partition table belongs at the disk's end. An ISO stays as it is."""
    with device.path.open("rb") as file:
        file.seek(0x8001)
        if file.read(5) == b"CD001" or gpt.read(file) is None or found.image_size == device.size:
            return
    move = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--relocate", "gpt-bak-std", str(device.path)]
    done = programs.run(move)
    if done.returncode != 0:
        raise FlashError(f"the partition table of {device.path} could not be completed: {_last(done.stderr)}.")
    with device.path.open("rb") as file:
        os.fsync(file.fileno())


def _spoil(device: Device) -> None:
    """A half-written device must not look like a good one."""
    try:
        with device.path.open("r+b", buffering=0) as file:
            file.write(bytes(1 << 20))
            os.fsync(file.fileno())
    except OSError:
        # It can no longer be written to: that is what the error says anyway.
        return


def _last(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("bmaptool: ").removeprefix("ERROR: ").rstrip(".") if lines else "no reason was given"
