"""What the publisher makes of chunks is what everybody's programs read."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance_release import chunks
from appliance_release.artifacts import ArtifactError
from appliance_release.chunks import ChunkToolMissing, chunk_ids, make_index

TOOLS = [tool for tool in ("desync", "casync") if shutil.which(tool)]
CONTENT = random.Random(3).randbytes(1_000_000) + bytes(700_000) + random.Random(4).randbytes(300_000)


def only(monkeypatch: pytest.MonkeyPatch, *tools: str) -> None:
    """As if no other program was installed."""
    found = {tool: shutil.which(tool) for tool in tools}
    monkeypatch.setattr(chunks.shutil, "which", found.get)


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    only(monkeypatch, request.param)
    return str(request.param)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    return path


def extract(reader: str, index: Path, store: Path, target: Path) -> bytes:
    program = subprocess.run(
        ["sh", "-c", f"command -v {reader}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    subprocess.run([program, "extract", f"--store={store}", str(index), str(target)], check=True, capture_output=True)
    return target.read_bytes()


@pytest.mark.parametrize("reader", TOOLS)
def test_plain_casync_and_desync_extract_what_either_of_them_made(
    tool: str, reader: str, content: Path, tmp_path: Path
) -> None:
    index, store = tmp_path / "made.caibx", tmp_path / "store"
    make_index(content, index, store)
    assert extract(reader, index, store, tmp_path / "out") == CONTENT


def test_chunks_are_named_by_their_content_and_are_readable_for_a_web_server(
    tool: str, content: Path, tmp_path: Path
) -> None:
    index, store = tmp_path / "made.caibx", tmp_path / "store"
    make_index(content, index, store)
    named = chunk_ids(index)
    assert 5 < len(named) < 60
    for chunk_id in named:
        path = store / chunk_id[:4] / f"{chunk_id}.cacnk"
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.parent.stat().st_mode & 0o777 == 0o755
        plain = subprocess.run(["zstd", "-dc", str(path)], capture_output=True, check=True).stdout
        assert hashlib.new("sha512_256", plain).hexdigest() == chunk_id
    assert index.stat().st_mode & 0o777 == 0o644


def test_versions_share_the_chunks_they_have_in_common(tool: str, content: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    make_index(content, tmp_path / "one.caibx", store)
    before = len(list(store.rglob("*.cacnk")))
    content.write_bytes(CONTENT[:500_000] + b"changed" + CONTENT[500_000:])
    make_index(content, tmp_path / "two.caibx", store)
    assert len(list(store.rglob("*.cacnk"))) - before <= 4
    make_index(content, tmp_path / "again.caibx", store)
    assert (tmp_path / "again.caibx").read_bytes() == (tmp_path / "two.caibx").read_bytes()


def test_without_a_program_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, content: Path, tmp_path: Path
) -> None:
    only(monkeypatch)
    with pytest.raises(ChunkToolMissing, match="install one of them"):
        make_index(content, tmp_path / "made.caibx", tmp_path / "store")


def test_a_content_that_is_not_there_is_an_error_and_no_index(tool: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=tool):
        make_index(tmp_path / "nothing", tmp_path / "made.caibx", tmp_path / "store")
    assert not (tmp_path / "made.caibx").exists()


@pytest.mark.parametrize("raw", [b"", b"<html>" * 50, bytes(500)])
def test_what_is_no_index_is_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "index.caibx").write_bytes(raw)
    with pytest.raises(ArtifactError, match="not a chunk index"):
        chunk_ids(tmp_path / "index.caibx")
