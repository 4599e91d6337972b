"""Writing an image to a device with bmaptool, and reading back what was written."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from appliance_flash import blockmap, devices, gpt, images, programs
from appliance_flash.blockmap import BlockMap
from appliance_flash.devices import Device
from appliance_flash.errors import FlashError, Refused, Unusable
from appliance_flash.images import Image

Progress = Callable[[str, int, int], None]
"""Told the step (`writing`, `checking`), the bytes done and all bytes."""

_LOOK_S = 0.2
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def preflight(image: Image, found: BlockMap, device: Device, chosen: Path | None = None) -> None:
    """What can be known before the first byte. Raises `Refused` and `Missing`."""
    for program in ("bmaptool", "wipefs", "sfdisk", *(["zstd"] if image.compressed else [])):
        programs.find(program)
    if device.sector != gpt.SECTOR:
        raise Refused(f"{device.path} has sectors of {device.sector} bytes, and the image is made for 512.")
    if found.image_size > device.size:
        raise Refused(f"{device.path} has {device.size} bytes, and the image needs {found.image_size}. Too small.")
    try:
        for path in filter(None, (image.path, chosen or image.map_path)):
            if path.exists() and devices.carries(device, path):
                raise Refused(f"{path} lies on {device.path} itself. Copy it to another disk first.")
        with device.path.open("rb", buffering=0) as file:
            devices.flush(file.fileno())
    except OSError as error:
        raise Refused(f"{device.path} cannot be written to: {error.strerror or error}. Are you root?") from error


def write(image: Image, found: BlockMap, device: Device, progress: Progress) -> None:
    """Write, read back, compare; the first MiB last. After a failure the device carries no partition table.

    Raises `Refused` and `Unusable` before the first byte is written, and `FlashError` after it.
    """
    head, body = _split(image, found)

    def tell(step: str, done: int, _: int) -> None:
        progress(step, done, found.mapped_bytes)

    with contextlib.ExitStack() as hold:
        hold.enter_context(devices.held(device))
        devices.confirm(device)
        try:
            _forget(device)
            # bmaptool wants the device for itself.
            hold.close()
            _copy(image, body, device, tell)
            hold.enter_context(devices.held(device))
            verify(body, device, tell)
            _write_head(head, device)
            tell("writing", found.mapped_bytes, 0)
            tell("checking", found.mapped_bytes, 0)
            _finish(found, device)
        except BaseException as error:
            hold.close()
            _spoil(device)
            if type(error) is FlashError or not isinstance(error, FlashError | OSError | subprocess.SubprocessError):
                raise
            raise FlashError(f"writing to {device.path} failed: {error}".rstrip(".") + ".") from error


def _split(image: Image, found: BlockMap) -> tuple[bytes, BlockMap]:
    try:
        with images.stream(image) as file:
            return blockmap.split(found, file)
    except OSError as error:
        raise Unusable(f"{image.path}: {error.strerror or error}") from error


def _write_head(head: bytes, device: Device) -> None:
    """With the first MiB the device becomes one that something starts from, so it comes when all else is there."""
    with device.path.open("r+b", buffering=0) as file:
        for at in range(0, len(head), gpt.SECTOR * 8):
            file.write(head[at : at + gpt.SECTOR * 8])
        devices.flush(file.fileno())
        if _pread(file.fileno(), len(head), 0, device) != head:
            raise FlashError(f"what was read back from {device.path} is not what was written. Take another device.")


def _forget(device: Device) -> None:
    """Remove the marks of what was there: old tables, also at the end of the disk, and file systems."""
    # An eMMC has boot areas of its own beside its partitions: those are not ours, and write-protected.
    entries = (devices.SYS / "block" / device.name).glob(f"{device.name}*/partition")
    parts = sorted(path.parent.name for path in entries)
    for path in [*(device.path.with_name(name) for name in parts), device.path]:
        if path.exists():
            done = programs.run(["wipefs", "--all", "--force", "--quiet", str(path)])
            if done.returncode != 0:
                raise FlashError(f"{path} cannot be written to: {_last(done.stderr)}.")


def _copy(image: Image, found: BlockMap, device: Device, progress: Progress) -> None:
    if not found.spans:
        return
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
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, preexec_fn=_end_with_us,
            env=os.environ | {"LC_ALL": "C"},
        ) as process:  # fmt: skip
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


def _end_with_us() -> None:
    """No bmaptool goes on writing when this program was killed."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _sectors_written(device: Device) -> int:
    """What has reached the device since the start of this machine, in sectors (not what waits in memory)."""
    fields = (devices.SYS / "dev/block" / device.number / "stat").read_text().split()
    return int(fields[6])


def verify(found: BlockMap, device: Device, progress: Progress) -> None:
    """Read every mapped range from the device itself and compare. Raises `FlashError`."""
    done = 0
    with device.path.open("rb", buffering=0) as file:
        # What is in memory is what was meant; read what is on the device.
        devices.flush(file.fileno())
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
        meant = gpt.read(file)
        file.seek(0x8001)
        if meant is None or file.read(5) == b"CD001" or found.image_size == device.size:
            return
    move = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--relocate", "gpt-bak-std", str(device.path)]
    done = programs.run(move)
    if done.returncode != 0:
        raise FlashError(f"the partition table of {device.path} could not be completed: {_last(done.stderr)}.")
    with device.path.open("rb") as file:
        devices.flush(file.fileno())
        for header in (gpt.SECTOR, device.size - gpt.SECTOR):
            table = gpt.read(file, header)
            if table is None or table.partitions != meant.partitions:
                raise FlashError(f"the partition table of {device.path} reads back differently. Take another device.")


def _spoil(device: Device) -> None:
    """A half-written device must not look like a good one, nor be made one from the table's copy at its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    try:
        devices.confirm(device)
        with device.path.open("r+b", buffering=0) as file:
            for at in (0, max(device.size - blockmap.HEAD, 0)):
                file.seek(at)
                file.write(bytes(min(blockmap.HEAD, device.size)))
            os.fsync(file.fileno())
    except (OSError, Refused):
        # It can no longer be written to, or is gone and another one has its name: the error says so anyway.
        return
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _last(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("bmaptool: ").removeprefix("ERROR: ").rstrip(".") if lines else "no reason was given"
