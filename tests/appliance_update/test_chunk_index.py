"""The index parser takes what desync and casync write, and refuses everything else with a reason and nothing worse."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from appliance_update.chunk_index import (
    HEADER,
    INDEX_TYPE,
    ITEM,
    LARGEST_CHUNK,
    SHA512_256,
    TABLE,
    TABLE_TYPE,
    TAIL,
    TAIL_MARKER,
    UNBOUNDED,
    Index,
    IndexUnusable,
    identity,
    parse,
)

SIZES = (16 * 1024, 64 * 1024, 256 * 1024)
LONGEST = 1 << 32


def written(ends: list[int], sizes: tuple[int, int, int] = SIZES, flags: int = SHA512_256) -> bytes:
    """An index as the programs write it, of chunks that end at these bytes."""
    table = b"".join(ITEM.pack(end, hashlib.sha256(str(end).encode()).digest()) for end in ends)
    head = HEADER.pack(HEADER.size, INDEX_TYPE, flags, *sizes) + TABLE.pack(UNBOUNDED, TABLE_TYPE)
    return head + table + TAIL.pack(0, 0, HEADER.size, TABLE.size + len(table) + TAIL.size, TAIL_MARKER)


lengths = st.lists(st.integers(1, SIZES[2]), max_size=40)


def ends_of(sizes: list[int]) -> list[int]:
    return [sum(sizes[: number + 1]) for number in range(len(sizes))]


def refused(raw: bytes, longest: int = LONGEST) -> str:
    with pytest.raises(IndexUnusable) as caught:
        parse(raw, longest)
    return str(caught.value)


@given(lengths)
def test_chunks_follow_each_other_without_gaps(sizes: list[int]) -> None:
    index = parse(written(ends_of(sizes)), LONGEST)
    assert [chunk.length for chunk in index.chunks] == sizes
    assert [chunk.offset for chunk in index.chunks] == [sum(sizes[:number]) for number in range(len(sizes))]
    assert index.length == sum(sizes)


@given(lengths, st.data())
def test_a_truncated_index_is_refused_wherever_it_ends(sizes: list[int], data: st.DataObject) -> None:
    raw = written(ends_of(sizes))
    refused(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(lengths, st.binary(min_size=1, max_size=200))
def test_nothing_may_follow_the_end(sizes: list[int], more: bytes) -> None:
    refused(written(ends_of(sizes)) + more)


@given(st.binary(max_size=600))
def test_any_bytes_are_refused_or_read_and_nothing_else_happens(raw: bytes) -> None:
    try:
        assert isinstance(parse(raw, LONGEST), Index)
    except IndexUnusable as error:
        assert str(error)


@given(lengths.filter(bool), st.data())
def test_a_changed_byte_is_refused_or_leaves_a_sound_index(sizes: list[int], data: st.DataObject) -> None:
    """Ids may become others (then the chunks are not found); order, bounds and length stay sound."""
    raw = bytearray(written(ends_of(sizes)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        index = parse(bytes(raw), LONGEST)
    except IndexUnusable:
        return
    position = 0
    for chunk in index.chunks:
        assert (chunk.offset, 0 < chunk.length <= index.sizes[2]) == (position, True)
        position += chunk.length
    assert index.length == position


@given(lengths.filter(lambda sizes: len(sizes) > 1), st.data())
def test_overlapping_chunks_are_refused(sizes: list[int], data: st.DataObject) -> None:
    ends = ends_of(sizes)
    number = data.draw(st.integers(1, len(ends) - 1))
    ends[number] = data.draw(st.integers(0, ends[number - 1]))
    assert "chunks follow each other" in refused(written(ends))


@given(st.integers(SIZES[2] + 1, (1 << 64) - 1))
def test_a_huge_chunk_is_refused_before_anybody_allocates_for_it(end: int) -> None:
    assert "chunks follow each other" in refused(written([end]))


@given(lengths.filter(bool))
def test_an_index_of_more_than_the_signed_length_is_refused(sizes: list[int]) -> None:
    assert "more than" in refused(written(ends_of(sizes)), sum(sizes) - 1)


@given(st.tuples(*[st.integers(0, (1 << 64) - 1)] * 3))
def test_odd_chunk_sizes_are_refused(sizes: tuple[int, int, int]) -> None:
    assume(not 0 < sizes[0] <= sizes[1] <= sizes[2] <= LARGEST_CHUNK)
    assert "chunk sizes" in refused(written([1], sizes))


def test_other_digests_are_refused() -> None:
    assert "SHA-512/256" in refused(written([1], flags=0))


def test_a_web_page_is_refused() -> None:
    assert "begin like" in refused(b"<!DOCTYPE html><html>" + b" " * 200)


def test_a_table_that_lies_about_its_size_is_refused() -> None:
    raw = bytearray(written([100, 200]))
    struct.pack_into("<Q", raw, len(raw) - 16, 1 << 60)
    assert "end is not" in refused(bytes(raw))


@pytest.mark.parametrize("tool", ["casync", "desync"])
def test_what_the_programs_write_is_read_and_its_ids_are_those_of_the_content(tool: str, tmp_path: Path) -> None:
    program = shutil.which(tool)
    if program is None:
        pytest.skip(f"{tool} is not packaged here")
    content = os.urandom(700_000) + bytes(600_000) + os.urandom(100)
    (tmp_path / "content").write_bytes(content)
    (tmp_path / "store").mkdir()
    subprocess.run(
        [program, "make", f"--store={tmp_path}/store", f"{tmp_path}/content.caibx", f"{tmp_path}/content"], check=True
    )
    index = parse((tmp_path / "content.caibx").read_bytes(), len(content))
    assert index.length == len(content)
    for chunk in index.chunks:
        assert identity(content[chunk.offset : chunk.offset + chunk.length]) == chunk.id
