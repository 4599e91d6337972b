"""Fetching only what changed: the chunks of an artifact that neither slot holds.

Whatever is wrong with an index, a chunk or a program costs nothing but bytes: the whole artifact is fetched then. What
the whole artifact could not be fetched through either (no uplink, a captive portal, a full disk) is an error.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
import zstandard

from appliance_update import faults
from appliance_update.chunk_index import Chunk, Index, IndexUnusable, identity, parse
from appliance_update.chunk_tool import ChunkTool, ToolFailed, find_tool
from appliance_update.download import (
    RESERVE,
    Download,
    File,
    NoSpace,
    Patience,
    TransferError,
    disk_error,
    flush_file,
    hash_file,
    keep_reserve,
    mib,
)
from appliance_update.files import flush_directory, write_whole
from appliance_update.layout import Role
from appliance_update.release import Artifact, Chunks, Release
from appliance_update.repository import Repository
from appliance_update.seeds import INDEX_LIMIT, Installed, Place, Seed
from appliance_update.web import CaptivePortal, NotThere, WebError, body, opened

PACKED_OVERHEAD = 1024
"""Bytes by which a chunk may be longer packed than plain."""
BLOCK = 4096


class NoReuse(RuntimeError):
    """The whole artifact is to be fetched; the message says why."""


@dataclass(frozen=True)
class Plan:
    """How an artifact is put together: seeds that give something, chunks to fetch, and an estimate of their bytes."""

    index: Index
    seeds: tuple[Seed, ...]
    missing: tuple[Chunk, ...]
    estimate: int


@dataclass(frozen=True)
class Store:
    """Chunks on the state partition, as casync lays them: xxxx/<id>.cacnk. It outlives a power cut."""

    directory: Path

    def path(self, chunk_id: str) -> Path:
        """Where a chunk lies, or would."""
        return self.directory / relative(chunk_id)

    def holds(self, chunk: Chunk) -> bool:
        """Whether the chunk is there and right; a torn one is removed."""
        path = self.path(chunk.id)
        try:
            if _content(path.read_bytes(), chunk) is not None:
                return True
        except OSError:
            return False
        path.unlink()
        return False

    def keep(self, chunk: Chunk, packed: bytes) -> None:
        """Keep a verified chunk. Raises `OSError`."""
        write_whole(self.path(chunk.id), packed)

    def clear(self) -> None:
        """Remove all chunks."""
        shutil.rmtree(self.directory, ignore_errors=True)


def relative(chunk_id: str) -> str:
    """The path of a chunk in any store."""
    return f"{chunk_id[:4]}/{chunk_id}.cacnk"


def _content(packed: bytes, chunk: Chunk) -> bytes | None:
    """The bytes of a chunk, or None when they are not what its id says."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
            content = reader.read(chunk.length + 1)
    except zstandard.ZstdError:
        return None
    return content if len(content) == chunk.length and identity(content) == chunk.id else None


@dataclass(frozen=True)
class Reuse:
    """Fetches artifacts by their chunks. `find` finds the program that puts them together."""

    repository: Repository
    download: Download
    installed: Installed
    store: Store
    find: Callable[[], ChunkTool | None] = find_tool

    def fetch(self, release: Release, artifact: Artifact, final: Path, progress: Callable[[int], None]) -> None:
        """Make `final`, verified. `progress` is told of bytes of `artifact.length`.

        Raises `NoReuse` when the whole artifact is the better or the only way, else `TransferError`.
        """
        chunks, tool = artifact.chunks, self.find()
        if chunks is None:
            raise NoReuse("the release has no chunk index for it")
        index = self._index(release.version, artifact, chunks)
        if tool is None:
            raise NoReuse("neither desync nor casync is installed")
        plan = self._plan(release, artifact, index)
        self._see_room(artifact, plan)
        self._fetch_missing(artifact, chunks, plan, progress)
        self._assemble(tool, release.version, artifact, plan, final)
        progress(artifact.length)

    # -- what is needed -----------------------------------------------------------------------------------------------

    def _index(self, version: str, artifact: Artifact, chunks: Chunks) -> Index:
        """The artifact's index: kept from before the power cut, or fetched now, and kept for the next update."""
        indexes = self.installed.indexes
        kept = indexes.path(version, artifact.role)
        with contextlib.suppress(OSError):
            if hash_file(kept, lambda _count: None) != (chunks.sha256, chunks.length):
                kept.unlink()
        try:
            if not kept.exists():
                indexes.keep(version, artifact.role, self._fetch_index(artifact.role, chunks))
                faults.point(f"index:{artifact.role}")
            index = indexes.read(version, artifact.role, artifact.content_length)
        except IndexUnusable as error:
            raise NoReuse(f"its chunk index cannot be used: {error}") from error
        except OSError as error:
            raise disk_error(error, chunks.index, kept) from error
        if index.length != artifact.content_length:
            raise NoReuse(f"its chunk index describes {index.length} bytes instead of {artifact.content_length}")
        return index

    def _fetch_index(self, role: str, chunks: Chunks) -> bytes:
        if chunks.length > INDEX_LIMIT:
            raise NoReuse(f"its chunk index has {chunks.length} bytes")
        url = self.repository.target_url(chunks.index, chunks.sha256)
        file = File(url, chunks.index, chunks.length, chunks.sha256, f"index-{role}")
        try:
            return self.download.small(file)
        except TransferError as error:
            if _reaches_no_server(error):
                raise
            raise NoReuse(f"its chunk index is not to be had: {error}") from error

    def _plan(self, release: Release, artifact: Artifact, index: Index) -> Plan:
        pieces = {chunk.id: chunk for chunk in index.chunks}
        wanted = {chunk_id for chunk_id, chunk in pieces.items() if not self.store.holds(chunk)}
        seeds = []
        for seed in self._seeds(release, Role(artifact.role)):
            found = seed.holds(wanted)
            if found:
                wanted -= found
                seeds.append(seed)
        missing = tuple(chunk for chunk_id, chunk in pieces.items() if chunk_id in wanted)
        packing = min(1.0, artifact.length / max(1, artifact.content_length))
        estimate = int(sum(chunk.length for chunk in missing) * packing)
        left = artifact.length - self.download.have(artifact.sha256)
        if estimate >= left:
            raise NoReuse(f"its missing chunks are {mib(estimate)}, the whole of it is {mib(left)}")
        return Plan(index, tuple(seeds), missing, estimate)

    def _seeds(self, release: Release, role: Role) -> Iterator[Seed]:
        indexes = self.installed.indexes
        for place in self.installed.places(role):
            if place.version == release.version:
                continue  # half written by an earlier try, perhaps
            with contextlib.suppress(OSError, IndexUnusable, TransferError, NoReuse):
                if not indexes.path(place.version, role.value).exists():
                    self._fetch_installed_index(place, role)
                index = indexes.read(place.version, role.value, place.longest)
                yield Seed(place, index, indexes.path(place.version, role.value))

    def _fetch_installed_index(self, place: Place, role: Role) -> None:
        """The index of what the installer wrote, if the repository still has it."""
        chunks = self.repository.chunks_of(place.version, role)
        if chunks is None:
            raise NoReuse("not in the repository any more")
        content = self._fetch_index(f"installed-{role.value}", chunks)
        parse(content, place.longest)
        self.installed.indexes.keep(place.version, role.value, content)

    def _see_room(self, artifact: Artifact, plan: Plan) -> None:
        """Room for the chunks as they lie in blocks, and for the file made of them. Raises `NoSpace`."""
        needed = plan.estimate + len(plan.missing) * BLOCK + artifact.content_length + RESERVE
        free = shutil.disk_usage(self.download.directory).free
        if free < needed:
            raise NoSpace(
                f"{artifact.target}: its chunks and the file made of them need {mib(needed)} on "
                f"{self.download.directory}, {mib(free)} are free; make room there"
            )

    # -- fetching -----------------------------------------------------------------------------------------------------

    def _fetch_missing(self, artifact: Artifact, chunks: Chunks, plan: Plan, progress: Callable[[int], None]) -> None:
        lacking, fetched, done = sum(chunk.length for chunk in plan.missing), 0, 0
        whole = plan.index.length
        for chunk in plan.missing:
            packed = self._fetch_chunk(chunks, chunk)
            faults.point(f"piece:{artifact.role}")
            try:
                self.store.keep(chunk, packed)
            except OSError as error:
                raise disk_error(error, artifact.target, self.store.path(chunk.id)) from error
            keep_reserve(self.download.directory, artifact.target)
            fetched, done = fetched + len(packed), done + chunk.length
            if fetched > artifact.length:
                raise NoReuse(f"its chunks have more bytes than the whole of it ({mib(artifact.length)})")
            progress(artifact.length * (whole - lacking + done) // whole)

    def _fetch_chunk(self, chunks: Chunks, chunk: Chunk) -> bytes:
        """One chunk, verified. Raises `NoReuse` for one the server does not give, `TransferError` without uplink."""
        url = f"{self.repository.url.rstrip('/')}/targets/{chunks.store}/{relative(chunk.id)}"
        patience = Patience(lambda: 0, self.download.pause, hopeless=(CaptivePortal, NotThere))
        try:
            packed: bytes = patience.retrying()(_get, self.repository.client, url, chunk)
        except CaptivePortal as error:
            raise TransferError(str(error)) from error
        except WebError as error:
            if error.status:
                raise NoReuse(f"a chunk is not to be had: {error}") from error
            raise TransferError(f"{error} ({patience.failures} attempts without progress)") from error
        return packed

    # -- putting together ---------------------------------------------------------------------------------------------

    def _assemble(self, tool: ChunkTool, version: str, artifact: Artifact, plan: Plan, final: Path) -> None:
        unpacked = final.with_name(f".{final.name}.new")
        unpacked.unlink(missing_ok=True)
        faults.point(f"assemble:{artifact.role}")
        try:
            index = self.installed.indexes.path(version, artifact.role)
            self.store.directory.mkdir(parents=True, exist_ok=True)
            tool.extract(index, self.store.directory, plan.seeds, unpacked)
            found = hash_file(unpacked, lambda _count: None)
            if found != (artifact.content_sha256, artifact.content_length):
                raise NoReuse(f"{tool.name} made something else of its chunks than what was signed")
            flush_file(unpacked)
            unpacked.chmod(0o644)
            faults.point(f"stage:{artifact.role}")
            unpacked.replace(final)
            flush_directory(final.parent)
        except ToolFailed as error:
            if "no space left" in str(error).lower():
                raise disk_error(OSError(errno.ENOSPC, str(error)), artifact.target, unpacked) from error
            raise NoReuse(str(error)) from error
        except OSError as error:
            raise disk_error(error, artifact.target, unpacked) from error
        finally:
            unpacked.unlink(missing_ok=True)
        faults.point(f"staged:{artifact.role}")


def _reaches_no_server(error: TransferError) -> bool:
    """Whether the whole artifact could not be fetched either: no uplink, a captive portal, a full or failing disk."""
    cause = error.__cause__
    if isinstance(error, NoSpace) or isinstance(cause, CaptivePortal | OSError):
        return True
    return isinstance(cause, WebError) and not cause.status


def _get(client: requests.Session, url: str, chunk: Chunk) -> bytes:
    """One try at one chunk. Raises `WebError`, also for one that is not what its id says: the link may be to blame."""
    limit, packed = chunk.length + PACKED_OVERHEAD, b""
    with opened(client, url) as response:
        for piece in body(client, response):
            packed += piece
            if len(packed) > limit:
                raise WebError(f"{url}: it has more than {limit} bytes", response.status_code)
        if _content(packed, chunk) is None:
            raise WebError(f"{url}: it is not what its name says", response.status_code)
    return packed
