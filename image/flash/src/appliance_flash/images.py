"""Images: an ISO or a disk, raw or compressed with zstd, and the map beside it."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from appliance_flash import blockmap, programs
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
    if not image.compressed:
        with image.path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile(dir=image.path.parent) as scratch:
        _unpack(image.path, scratch)
        yield scratch


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
        if not image.compressed and image.path.stat().st_size != found.image_size:
            raise Unusable(
                f"{path} is the map of an image of {found.image_size} bytes, and {image.path} has "
                f"{image.path.stat().st_size}. One of them is of another version, or the image is not complete."
            )
        return found
    with raw(image) as file:
        size = file.seek(0, 2)
        return blockmap.make(file, size, progress)
