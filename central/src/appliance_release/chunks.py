"""Chunk indexes: with one, a device fetches only what neither of its slots holds.

desync and casync write the same format; whichever is installed makes it. Sizes: with 64 KiB on average, a change of one
package costs 0.7 % of a release of 190 MiB, a sixth of it for the index itself. 32 KiB fetch a third less for twice as
many requests, 16 KiB more again, and 128 KiB half as much again (measured with `python -m benchmarks update`).
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import zstandard

from appliance_release.artifacts import ArtifactError

SMALLEST, AVERAGE, LARGEST = 16, 64, 256
"""KiB. Devices accept any sizes, but reuse only what was cut in the same way: changing them costs a whole download."""

_INDEX_TYPE = 0x96824D9C7B129FF9
_HEADER, _ITEM, _TAIL = 64, 40, 40


class ChunkToolMissing(ArtifactError):
    """Neither desync nor casync is installed here."""


def make_index(content: Path, index: Path, store: Path) -> None:
    """Cut `content` into chunks below `store`, and write its index. Chunks that are there already stay as they are.

    Raises `ChunkToolMissing`, and `ArtifactError` when the program fails or the result is not whole.
    """
    store.mkdir(parents=True, exist_ok=True)
    # The programs name the index's kind by its extension, and must not leave half an index under its name.
    with tempfile.TemporaryDirectory(dir=index.parent) as directory:
        made = Path(directory) / "made.caibx"
        _run(_command(content, made, store))
        _readable_for_all(store, made)
        made.chmod(0o644)
        made.replace(index)


def _command(content: Path, index: Path, store: Path) -> list[str]:
    if program := shutil.which("desync"):
        sizes = f"{SMALLEST}:{AVERAGE}:{LARGEST}"
        return [program, "make", f"--store={store}", f"--chunk-size={sizes}", str(index), str(content)]
    if program := shutil.which("casync"):
        sizes = ":".join(str(size * 1024) for size in (SMALLEST, AVERAGE, LARGEST))
        options = [f"--store={store}", f"--chunk-size={sizes}", "--compression=zstd"]
        return [program, "make", *options, str(index), str(content)]
    raise ChunkToolMissing("A chunk index needs desync or casync: install one of them, or publish without --chunks")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-300:]
        raise ArtifactError(f"{Path(command[0]).name} make failed ({done.returncode}): {said}")


def _readable_for_all(store: Path, index: Path) -> None:
    """A web server of another user serves the chunks; a chunk that is not there is found now, not on a device."""
    for chunk_id in chunk_ids(index):
        path = chunk_path(store, chunk_id)
        try:
            path.parent.chmod(0o755)
            path.chmod(0o644)
        except OSError as error:
            raise ArtifactError(f"The chunk {path} is missing after its index was made: {error.strerror}") from error


def chunk_ids(index: Path) -> list[str]:
    """The ids (64 hex digits) that an index names, each once. Raises `ArtifactError` for what is no index."""
    raw = index.read_bytes()
    if len(raw) < _HEADER + _TAIL or struct.unpack_from("<QQ", raw) != (48, _INDEX_TYPE):
        raise ArtifactError(f"{index} is not a chunk index")
    table = raw[_HEADER:-_TAIL]
    if len(table) % _ITEM:
        raise ArtifactError(f"{index} is damaged: its table has {len(table)} bytes")
    return list(dict.fromkeys(table[at + 8 : at + _ITEM].hex() for at in range(0, len(table), _ITEM)))


def chunk_path(store: Path, chunk_id: str) -> Path:
    """Where a chunk lies in a store, by casync's and desync's layout."""
    return store / chunk_id[:4] / f"{chunk_id}.cacnk"


def chunk_problem(store: Path, chunk_id: str) -> str:
    """Why a device could not use a chunk; empty when it is there and is what its name says (SHA-512/256)."""
    try:
        packed = chunk_path(store, chunk_id).read_bytes()
        plain = zstandard.ZstdDecompressor().decompress(packed, max_output_size=LARGEST * 1024, allow_extra_data=False)
    except OSError as error:
        return error.strerror or str(error)
    except zstandard.ZstdError as error:
        return f"it cannot be unpacked ({error})"
    same = hashlib.new("sha512_256", plain, usedforsecurity=False).hexdigest() == chunk_id
    return "" if same else "its content is another one"
