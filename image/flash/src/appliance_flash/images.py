"""Images: an ISO or a disk, raw or compressed with zstd, and the map beside it."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from appliance_flash import blockmap, contents, gpt, programs
from appliance_flash.blockmap import BlockMap
from appliance_flash.errors import Unusable

_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Image:
    """An image file. What it is tells its beginning, not its name."""

    path: Path
    compressed: bool

    @property
    def map_path(self) -> Path:
        """Where its block map is looked for: `<name without .zst>.bmap`, as bmaptool does."""
        name = self.path.name.removesuffix(".zst") if self.compressed else self.path.name
        beside = self.path.with_name(f"{name}.bmap")
        other = self.path.with_name(f"{self.path.name}.bmap")
        return other if not beside.exists() and other.exists() else beside


def find(path: Path) -> Image:
    """Look at an image file. Raises `Unusable`."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_ZSTD))
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror or error}") from error
    if not start:
        raise Unusable(f"{path} is empty.")
    return Image(path, start == _ZSTD)


@contextlib.contextmanager
def raw(image: Image) -> Iterator[BinaryIO]:
    """The image's bytes in a file one can jump about in; a compressed one is unpacked first. Raises `Unusable`."""
    try:
        if not image.compressed:
            with image.path.open("rb") as file:
                yield file
            return
        with tempfile.TemporaryFile(dir=image.path.parent) as scratch:
            _unpack(image.path, scratch)
            yield scratch
    except OSError as error:
        room = " It is unpacked in its own folder, which must be writable and have room." if image.compressed else ""
        raise Unusable(f"{image.path}: {error.strerror or error}.{room}") from error


@contextlib.contextmanager
def stream(image: Image) -> Iterator[BinaryIO]:
    """The image's bytes from the beginning, unpacked as they are read. Raises `OSError` and `Missing`."""
    if not image.compressed:
        with image.path.open("rb") as file:
            yield file
        return
    command = [programs.find("zstd"), "--decompress", "--stdout", "--quiet", "--", str(image.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield cast(BinaryIO, process.stdout)
        finally:
            # Only the beginning was wanted.
            process.kill()


def check(image: Image) -> None:
    """Refuse what nothing starts from: neither a disk with a partition table nor an ISO. Raises `Unusable`."""
    try:
        with stream(image) as file:
            start = file.read(0x8006)
    except OSError as error:
        raise Unusable(f"{image.path}: {error.strerror or error}") from error
    if start[gpt.SECTOR :][:8] != b"EFI PART" and start[0x8001:] != b"CD001":
        raise Unusable(
            f"{image.path} is neither a disk image with a partition table (GPT) nor an ISO. If it is compressed in "
            "another way than with zstd, unpack it first."
        )


def _unpack(path: Path, target: IO[bytes]) -> None:
    command = [programs.find("zstd"), "--decompress", "--stdout", "--quiet", "--", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while piece := process.stdout.read(blockmap.PIECE):
            # Holes stay holes: the unpacked image may be much larger than the disk it lies on.
            if any(piece):
                target.write(piece)
            else:
                target.seek(len(piece), 1)
        said = process.stderr.read().decode(errors="replace").strip()
    target.truncate()
    if process.returncode != 0:
        raise Unusable(f"{path} is damaged: {said or 'zstd cannot unpack it'}. Fetch or copy it again.")


def map_of(image: Image, chosen: Path | None, progress: Callable[[int, int], None] | None = None) -> BlockMap:
    """The image's map: the one named, the one beside it, else one made now. Raises `Unusable`."""
    path = chosen or image.map_path
    if chosen or path.exists():
        found = blockmap.load(path)
        if not found.spans or found.spans[0].first:
            raise Unusable(f"{path} leaves out the image's first block: nothing would start from the device.")
        if not image.compressed and image.path.stat().st_size != found.image_size:
            raise Unusable(
                f"{path} is the map of an image of {found.image_size} bytes, and {image.path} has "
                f"{image.path.stat().st_size}. One of them is of another version, or the image is not complete."
            )
        if _complete(image, found, chosen is not None):
            return found
        if chosen:
            raise Unusable(f"{path} leaves out parts of the image that matter. Make one: appliance-flash map IMAGE.")
    with raw(image) as file:
        size = file.seek(0, 2)
        return blockmap.make(file, size, progress)


def _complete(image: Image, found: BlockMap, chosen: bool) -> bool:
    """Whether a map may be believed. A compressed image does not tell; whoever names one answers for it."""
    if image.compressed:
        return found.own or chosen
    with raw(image) as file:
        return blockmap.covers(found, contents.needed(file, found.image_size))
