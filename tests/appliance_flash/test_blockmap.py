"""Block maps: what is in them, and that bmaptool reads them as we do."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_flash import blockmap, contents
from appliance_flash.blockmap import BLOCK, BlockMap, Span
from appliance_flash.errors import Unusable
from tests.appliance_flash.conftest import ESP_START, MIB, SLOT_START, run


def made(image: Path) -> BlockMap:
    with image.open("rb") as file:
        return blockmap.make(file, image.stat().st_size)


@st.composite
def maps(draw: st.DrawFn) -> BlockMap:
    """Any well-formed map."""
    spans, at = [], 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20)):
        first = at + gap
        spans.append(Span(first, first + length, draw(st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}"))))
        at = first + length + 1
    return BlockMap(at * BLOCK - draw(st.integers(0, BLOCK - 1)), tuple(spans))


@given(maps())
def test_a_map_reads_back_as_it_was_written(given_map: BlockMap) -> None:
    assert blockmap.parse(given_map.to_xml().encode()) == given_map


@given(maps(), st.data())
def test_one_changed_character_is_noticed(given_map: BlockMap, data: st.DataObject) -> None:
    text = given_map.to_xml()
    at = data.draw(st.integers(text.index("<ImageSize>") + 11, len(text) - 8))
    changed = "7" if text[at] != "7" else "8"
    with pytest.raises(Unusable):
        blockmap.parse((text[:at] + changed + text[at + 1 :]).encode())


@given(st.binary(max_size=5 * BLOCK).filter(bool))
def test_an_image_nobody_understands_matters_as_a_whole(content: bytes) -> None:
    found = blockmap.make(io.BytesIO(content), len(content))
    assert found.mapped_bytes == found.image_size == len(content)


def test_the_space_nobody_reads_is_left_out(image: Path) -> None:
    found = made(image)
    covered = [range(start, start + length) for start, length, _ in found.byte_spans()]
    assert found.mapped_bytes < 10 * MIB
    for needed in (0, 512, ESP_START, SLOT_START, SLOT_START + 4 * MIB - 1, 48 * MIB - 512):
        assert any(needed in span for span in covered), needed
    assert not any(SLOT_START + 6 * MIB in span for span in covered)


def test_a_file_allocation_table_matters_though_it_is_mostly_zeros(image: Path) -> None:
    with image.open("rb") as file:
        ranges = contents.needed(file, image.stat().st_size)
    # 32 reserved sectors and two tables of 4 bytes for each of the 68,000 clusters.
    assert any(low <= ESP_START and high > ESP_START + 500_000 for low, high in ranges)


def test_what_an_earlier_owner_left_does_not_show_through(image: Path, tmp_path: Path) -> None:
    """bmaptool writes our map over rubbish: the boot partition must be sound and the slot exact."""
    target, bmap = tmp_path / "target", tmp_path / "map.bmap"
    bmap.write_text(made(image).to_xml())
    target.write_bytes(b"rubbish " * (image.stat().st_size // 8))
    with image.open("rb") as source, target.open("r+b") as file:
        for start, length, _ in blockmap.load(bmap).byte_spans():
            source.seek(start)
            file.seek(start)
            file.write(source.read(length))
    esp = tmp_path / "esp"
    esp.write_bytes(target.read_bytes()[ESP_START : ESP_START + 34 * MIB])
    checked = subprocess.run(["fsck.vfat", "-n", str(esp)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    listing = run("mdir", "-b", "-i", str(esp), "::EFI")
    assert "loader.efi" in listing
    slot = slice(SLOT_START, SLOT_START + 4 * MIB)
    assert target.read_bytes()[slot] == image.read_bytes()[slot]


def test_bmaptool_takes_our_map_and_writes_the_image_by_it(image: Path, tmp_path: Path) -> None:
    bmap, target = tmp_path / "map.bmap", tmp_path / "target"
    bmap.write_text(made(image).to_xml())
    run("bmaptool", "copy", "--bmap", str(bmap), str(image), str(target))
    assert target.read_bytes() == image.read_bytes()


def test_a_map_that_bmaptool_made_is_read(image: Path, tmp_path: Path) -> None:
    bmap = tmp_path / "map.bmap"
    bmap.write_text(run("bmaptool", "create", str(image)))
    found = blockmap.load(bmap)
    assert found.image_size == image.stat().st_size
    assert found.spans


@pytest.mark.parametrize(
    "text",
    ["", "<bmap/>", "not xml", '<bmap version="1.3"/>', '<!DOCTYPE a [<!ENTITY b "c">]><bmap version="2.0">&b;</bmap>'],
)
def test_what_is_no_map_is_refused(text: str) -> None:
    with pytest.raises(Unusable):
        blockmap.parse(text.encode())


def test_ranges_beyond_the_image_or_out_of_order_are_refused() -> None:
    for spans in ((Span(0, 9, "a"),), (Span(3, 3, "a"), Span(2, 2, "a"))):
        text = BlockMap(5 * BLOCK, spans).to_xml()
        with pytest.raises(Unusable, match="out of order or beyond"):
            blockmap.parse(text.encode())


@given(st.binary(max_size=4096))
def test_no_rubbish_makes_the_structures_be_misread_into_a_crash(content: bytes) -> None:
    padded = content.ljust(4096, b"\0")
    for first in (padded, b"verity\0\0" + padded[8:], padded[:1024] + b"\xe2\xe1\xf5\xe0" + padded[1028:],
                  padded[:82] + b"FAT32" + padded[87:510] + b"\x55\xaa" + padded[512:]):  # fmt: skip
        ranges = contents._of_partition(io.BytesIO(first), 0, len(first))
        assert all(0 <= low <= high <= len(first) for low, high in ranges)


def test_only_the_part_of_a_slot_that_verity_reads_matters() -> None:
    superblock = bytearray(4096)
    superblock[:8] = b"verity\0\0"
    superblock[32:38] = b"sha256"
    superblock[64:80] = (4096).to_bytes(4, "little") * 2 + (40_000).to_bytes(8, "little")
    # 40,000 blocks need 313 blocks of hashes, those 3, those 1, and the superblock.
    assert contents.verity_hash(bytes(superblock), 64 * MIB) == (313 + 3 + 1 + 1) * 4096
