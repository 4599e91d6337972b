"""Block maps: which blocks of an image are to be written, each range with its checksum, in bmaptool's format 2.0."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from appliance_flash import contents
from appliance_flash.errors import Unusable

BLOCK = 4096
PIECE = 1 << 20
LONGEST = 64 << 20
"""A range is no longer than this, so that a fault is found soon and can be told precisely."""

MAX_MAP = 64 << 20
"""Largest map file that is read, in bytes."""

HEAD = 1 << 20
"""What is written last: with it a device becomes one that something starts from."""

_MARK = "<!-- A block map: which blocks of the image are to be written. https://github.com/yoctoproject/bmaptool -->"
_NO_CHECKSUM = "0" * 64
_HEAD = f'<?xml version="1.0" ?>\n{_MARK}\n' """<bmap version="2.0">
    <ImageSize> {size} </ImageSize>
    <BlockSize> {block} </BlockSize>
    <BlocksCount> {blocks} </BlocksCount>
    <MappedBlocksCount> {mapped} </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <BmapFileChecksum> {checksum} </BmapFileChecksum>
    <BlockMap>
"""


@dataclass(frozen=True)
class Span:
    """A range of blocks, both ends included, and the checksum of its bytes."""

    first: int
    last: int
    digest: str


@dataclass(frozen=True)
class BlockMap:
    """A map. `image_size` in bytes; the last block may be shorter than the others."""

    image_size: int
    spans: tuple[Span, ...]
    block_size: int = BLOCK
    algorithm: str = "sha256"
    own: bool = field(default=True, compare=False)
    """Made by this tool, so by what matters and not by the holes of a file."""

    @property
    def mapped_bytes(self) -> int:
        """How much is written."""
        return sum(length for _, length, _ in self.byte_spans())

    def byte_spans(self) -> Iterator[tuple[int, int, str]]:
        """Offset and length in bytes, and the checksum, of each range."""
        for span in self.spans:
            start = span.first * self.block_size
            yield start, min((span.last + 1) * self.block_size, self.image_size) - start, span.digest

    def to_xml(self) -> str:
        """The map as a file that bmaptool and the installer read."""
        blocks = -(-self.image_size // self.block_size)
        mapped = sum(span.last - span.first + 1 for span in self.spans)
        facts = {"size": self.image_size, "block": self.block_size, "blocks": blocks, "mapped": mapped}
        lines = [f'        <Range chksum="{span.digest}"> {_blocks(span)} </Range>\n' for span in self.spans]
        text = _HEAD.format(checksum=_NO_CHECKSUM, **facts) + "".join(lines) + "    </BlockMap>\n</bmap>\n"
        return text.replace(_NO_CHECKSUM, hashlib.sha256(text.encode()).hexdigest(), 1)


def _blocks(span: Span) -> str:
    return f"{span.first}-{span.last}" if span.last > span.first else str(span.first)


def load(path: Path) -> BlockMap:
    """Read a map file of format 2. Raises `Unusable`."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MAP + 1)
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror or error}") from error
    try:
        return parse(raw)
    except Unusable as error:
        raise Unusable(f"{path}: {error} Make the map again: appliance-flash map IMAGE.") from error


def parse(raw: bytes) -> BlockMap:
    """A map from the bytes of its file. Raises `Unusable`."""
    if len(raw) > MAX_MAP or b"<!ENTITY" in raw:
        raise Unusable("this is no block map of a sensible size.")
    try:
        root = ElementTree.fromstring(raw)  # noqa: S314 - no entities, and expat bounds what is left
        algorithm = _text(root, "ChecksumType")
        checksum = _text(root, "BmapFileChecksum")
        if not str(root.get("version", "")).startswith("2."):
            raise Unusable("this is no block map of format 2.")
        blank = raw.replace(checksum.encode(), b"0" * len(checksum), 1)
        if hashlib.new(algorithm, blank).hexdigest() != checksum:
            raise Unusable("the block map is damaged: its own checksum is wrong.")
        size, block = int(_text(root, "ImageSize")), int(_text(root, "BlockSize"))
        spans = tuple(_span(element) for element in root.iterfind("BlockMap/Range"))
    except (ElementTree.ParseError, ValueError, TypeError) as error:
        raise Unusable(f"the block map cannot be read: {error}.") from error
    return _checked(BlockMap(size, spans, block, algorithm, _MARK.encode() in raw))


def _checked(made: BlockMap) -> BlockMap:
    if made.image_size <= 0 or made.block_size < 512 or HEAD % made.block_size:
        raise Unusable("the block map's sizes make no sense.")
    end = -1
    for span in made.spans:
        if not end < span.first <= span.last or span.last * made.block_size >= made.image_size:
            raise Unusable("the block map's ranges are out of order or beyond the image's end.")
        end = span.last
    return made


def _text(root: ElementTree.Element, name: str) -> str:
    found = root.findtext(name)
    if not found or not found.strip():
        raise Unusable(f"the block map has no {name}.")
    return found.strip()


def _span(element: ElementTree.Element) -> Span:
    matched = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", element.text or "")
    digest = element.get("chksum", "")
    if matched is None or not digest:
        raise Unusable("the block map has a range without blocks or checksum.")
    return Span(int(matched[1]), int(matched[2] or matched[1]), digest)


def make(image: BinaryIO, size: int, progress: Callable[[int, int], None] | None = None) -> BlockMap:
    """The map of a raw image: what matters of it (`contents`), in whole blocks. Raises `OSError` and `Unusable`.

    `progress` is told the bytes done and all bytes.
    """
    if size == 0:
        raise Unusable("the image is empty.")
    pieces = list(_pieces(contents.needed(image, size), size))
    total = sum(last - first + 1 for first, last in pieces) * BLOCK
    spans, done = [], 0
    for first, last in pieces:
        length = min((last + 1) * BLOCK, size) - first * BLOCK
        digest = hashlib.sha256()
        image.seek(first * BLOCK)
        while length:
            piece = image.read(min(PIECE, length))
            if not piece:
                raise Unusable("the image became shorter while it was read.")
            digest.update(piece)
            length -= len(piece)
            done += len(piece)
            if progress:
                progress(done, total)
        spans.append(Span(first, last, digest.hexdigest()))
    return BlockMap(size, tuple(spans))


def covers(found: BlockMap, ranges: list[contents.Range]) -> bool:
    """Whether all of these bytes are among those the map writes."""
    written = contents.joined([(start, start + length) for start, length, _ in found.byte_spans()])
    return contents.joined(written + ranges) == written


def split(found: BlockMap, image: BinaryIO) -> tuple[bytes, BlockMap]:
    """The image's first MiB, and the map of what comes after it; `image` is read from its beginning, never back.

    Raises `OSError` and `Unusable`.
    """
    head, at, spans = b"", 0, []
    for (start, length, expected), span in zip(found.byte_spans(), found.spans, strict=True):
        if start >= HEAD:
            spans.append(span)
            continue
        if start > at:
            head += _exactly(image, start - at)
        whole, rest = hashlib.new(found.algorithm), hashlib.new(found.algorithm)
        at = start
        while at < start + length:
            limit = HEAD if at < HEAD else start + length
            piece = _exactly(image, min(PIECE, limit - at, start + length - at))
            whole.update(piece)
            if at < HEAD:
                head += piece
            else:
                rest.update(piece)
            at += len(piece)
        if whole.hexdigest() != expected:
            raise Unusable("the beginning of the image is not what its map says: it has another checksum.")
        if at > HEAD:
            spans.append(Span(HEAD // found.block_size, span.last, rest.hexdigest()))
    head += _exactly(image, max(min(HEAD, found.image_size) - max(at, len(head)), 0))
    return head, replace(found, spans=tuple(spans))


def _exactly(image: BinaryIO, length: int) -> bytes:
    pieces = []
    while length:
        piece = image.read(length)
        if not piece:
            raise Unusable("the image ends before its map does. Fetch or copy it again.")
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _pieces(ranges: list[contents.Range], size: int) -> Iterator[tuple[int, int]]:
    """Ranges of bytes as ranges of blocks, none of them long, none twice."""
    after = 0
    for low, high in ranges:
        first, last = max(low // BLOCK, after), (min(high, size) - 1) // BLOCK
        while first <= last:
            stop = min(first + LONGEST // BLOCK - 1, last)
            yield first, stop
            first = stop + 1
        after = max(after, last + 1)
