"""The headers of PE files: read from what tools made, and refused when they are none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_update.pe import START, PeError, headers

LOADER = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")


def _objdump(path: Path) -> dict[str, tuple[int, int]]:
    """Sections by binutils: size in the file, and offset."""
    lines = subprocess.run(["objdump", "-h", str(path)], capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split() for line in lines if line.strip()[:1].isdigit()]
    return {row[1]: (int(row[2], 16), int(row[5], 16)) for row in rows}


def test_sections_are_where_binutils_sees_them() -> None:
    found = headers(LOADER.read_bytes()[:START]).sections
    seen = _objdump(LOADER)
    assert [one.name for one in found] == list(seen)
    assert all(one.offset == seen[one.name][1] for one in found)
    assert all(one.length == min(one.virtual, one.size) for one in found)


@given(st.integers(0, 1024))
def test_a_file_that_is_cut_off_is_refused_or_read_whole(length: int) -> None:
    whole = LOADER.read_bytes()[:START]
    try:
        found = headers(whole[:length])
    except PeError:
        return
    assert found == headers(whole)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "begin like"),
        (b"\x7fELF" + bytes(200), "begin like"),
        (b"MZ", "beyond its end"),
        (b"MZ" + bytes(200), "no PE header"),
        (b"MZ" + b"\xff" * 200, "no PE header"),
    ],
)
def test_what_is_no_pe_file_is_refused_with_a_reason(content: bytes, why: str) -> None:
    with pytest.raises(PeError, match=why):
        headers(content)
