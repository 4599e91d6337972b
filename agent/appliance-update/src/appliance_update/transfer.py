"""Bringing the artifacts of a release into the staging directory: verified, and with as few bytes as can be.

An artifact with a chunk index is put together from what both slots hold and the chunks that they do not
(`appliance_update.chunks`); any other one, and whenever that does not work out, is fetched whole. Partial files are
named by the hash of what they will be, so that a partial file can never be continued with something else.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from appliance_update import faults
from appliance_update.chunk_tool import ChunkTool, find_tool
from appliance_update.chunks import NoReuse, Reuse
from appliance_update.chunks import Store as ChunkStore
from appliance_update.download import (
    BLOCK,
    RESERVE,
    Download,
    File,
    NoSpace,
    TransferError,
    disk_error,
    flush,
    hash_file,
    mib,
)
from appliance_update.files import flush_directory
from appliance_update.layout import Layout, Role
from appliance_update.release import Artifact, Release, staged_name
from appliance_update.repository import Repository
from appliance_update.seeds import Installed

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True)
class Transfer:
    """Where artifacts are fetched to (`downloads`), and where they lie verified (`staging`).

    Without `installed` nothing is known of this device's slots, and every artifact is fetched whole.
    """

    repository: Repository
    layout: Layout
    downloads: Path
    staging: Path
    pause: Callable[[float], None] = time.sleep
    installed: Installed | None = None
    find_tool: Callable[[], ChunkTool | None] = find_tool
    seen: dict[Path, tuple[int, ...]] = field(default_factory=dict)
    """Staged files that this process has verified, with what `stat` said of them then."""

    @property
    def download(self) -> Download:
        """Whole files."""
        return Download(self.repository.client, self.downloads, self.pause)

    @property
    def chunk_store(self) -> ChunkStore:
        """Chunks that were fetched and not used yet."""
        return ChunkStore(self.downloads / "chunks")

    def staged(self, release: Release, artifact: Artifact) -> Path:
        """The verified file of an artifact, whether it is there or not."""
        return self.staging / staged_name(artifact, release.version, self.layout)

    def tidy(self, release: Release) -> None:
        """Remove what belongs to other releases than this one."""
        wanted = {f"{artifact.sha256}.part" for artifact in release.artifacts}
        wanted |= {f"{artifact.chunks.sha256}.part" for artifact in release.artifacts if artifact.chunks}
        wanted |= {self.staged(release, artifact).name for artifact in release.artifacts}
        for directory in (self.downloads, self.staging):
            for path in directory.iterdir() if directory.is_dir() else ():
                if path.name not in wanted and path.is_file():
                    faults.point(f"tidy:{path.name}")
                    path.unlink(missing_ok=True)
        if self.installed is not None:
            if not (self.installed.indexes.directory / release.version).is_dir():
                self.chunk_store.clear()  # another release's
            self.installed.indexes.forget_all_but({release.version, *self.installed.versions()})

    def clear(self) -> None:
        """Remove everything fetched; the indexes of what is installed stay."""
        for directory in (self.downloads, self.staging):
            shutil.rmtree(directory, ignore_errors=True)

    # -- room ---------------------------------------------------------------------------------------------------------

    def preflight(self, release: Release) -> None:
        """See that state partition and ESP can take the release at its peak, before the first byte.

        That the slots can was seen when the release was admitted and the disk inspected. The peak is the whole
        artifacts' way: every file unpacked, and the largest one packed beside it; that of chunks is lower. Raises
        `NoSpace`.
        """
        self.downloads.mkdir(parents=True, exist_ok=True)
        self.staging.mkdir(parents=True, exist_ok=True)
        self._see_state(release)
        device = self.installed.device() if self.installed else None
        if device is not None and any(artifact.role == Role.UKI.value for artifact in release.artifacts):
            freed = sum(entry.path.stat().st_size for entry in device.entries if entry.version != device.version)
            esp_preflight(device.esp, release, self.layout, freed)

    def _see_state(self, release: Release) -> None:
        needed = biggest = 0
        for artifact in release.artifacts:
            if self.staged(release, artifact).exists():
                continue
            needed += artifact.content_length + (artifact.chunks.length if artifact.chunks else 0)
            biggest = max(biggest, artifact.length - self.download.have(artifact.sha256))
        if not needed:
            return
        needed += biggest + RESERVE
        free = shutil.disk_usage(self.downloads).free
        if free >= needed:
            return
        if free < RESERVE:
            self.clear()  # evidence comes first
        raise NoSpace(
            f"Release {release.version} needs {mib(needed)} on {self.downloads}, "
            f"{mib(free)} are free; make room there (old evidence is pruned daily by itself)"
        )

    # -- fetching -----------------------------------------------------------------------------------------------------

    def fetch(self, release: Release, progress: Progress) -> None:
        """Fetch whatever is not there yet. Raises `TransferError`."""
        total, done = release.download_size, 0
        for artifact in release.artifacts:
            base = done

            def report(count: int, base: int = base) -> None:
                progress(base + count, total)

            if not self.staged(release, artifact).exists() and not self._reused(release, artifact, report):
                self._fetch_whole(artifact, report)
            done += artifact.length
            progress(done, total)
        self.chunk_store.clear()

    def _reused(self, release: Release, artifact: Artifact, report: Callable[[int], None]) -> bool:
        """Whether the artifact could be put together from chunks; it is staged then."""
        if self.installed is None or artifact.chunks is None:
            return False
        reuse = Reuse(self.repository, self.download, self.installed, self.chunk_store, self.find_tool)
        final = self.staged(release, artifact)
        try:
            reuse.fetch(release, artifact, final, report)
            self.seen[final] = _facts(final)
        except NoReuse as reason:
            log.warning("%s of %s is fetched whole: %s", artifact.role, release.version, reason)
            self.chunk_store.clear()
            return False
        return True

    def _fetch_whole(self, artifact: Artifact, report: Callable[[int], None]) -> None:
        url = self.repository.target_url(artifact.target, artifact.sha256)
        self.download.fetch(File(url, artifact.target, artifact.length, artifact.sha256, artifact.role), report)

    # -- verification -------------------------------------------------------------------------------------------------

    def verify(self, release: Release, progress: Progress) -> None:
        """Check every artifact against what was signed and lay it, decompressed, into the staging directory.

        What this process has verified a moment ago and nobody touched is not read again. Raises `TransferError`; what
        was wrong is deleted, so that the next run fetches it anew.
        """
        total, done = sum(artifact.content_length for artifact in release.artifacts), 0
        for artifact in release.artifacts:
            base = done

            def report(count: int, base: int = base) -> None:
                progress(base + count, total)

            final = self.staged(release, artifact)
            if not final.exists():
                self._verify_one(artifact, final, report)
            elif self.seen.get(final) != _facts(final):
                self._verify_again(artifact, final, report)
            self.seen[final] = _facts(final)
            done += artifact.content_length
            progress(done, total)

    def _verify_again(self, artifact: Artifact, final: Path, report: Callable[[int], None]) -> None:
        if hash_file(final, report) != (artifact.content_sha256, artifact.content_length):
            final.unlink()
            raise TransferError(f"{final.name} in {self.staging} has changed since it was verified; deleted")

    def _verify_one(self, artifact: Artifact, final: Path, report: Callable[[int], None]) -> None:
        part = self.download.part(artifact.sha256)
        if not part.exists():
            raise TransferError(f"{artifact.target} is not there; fetch it first")
        faults.point(f"verify:{artifact.role}")
        if hash_file(part, lambda _: None) != (artifact.sha256, artifact.length):
            part.unlink()
            raise TransferError(f"{artifact.target} is not what was signed (hash or length differ); deleted")
        unpacked = final.with_name(f".{final.name}.new")
        try:
            found = _unpack(part, unpacked, artifact, report)
        except OSError as error:
            unpacked.unlink(missing_ok=True)
            raise disk_error(error, artifact.target, unpacked) from error
        if found != (artifact.content_sha256, artifact.content_length):
            unpacked.unlink(missing_ok=True)
            part.unlink()
            raise TransferError(f"{artifact.target} does not contain what was signed; deleted")
        faults.point(f"stage:{artifact.role}")
        unpacked.replace(final)
        flush_directory(final.parent)
        faults.point(f"staged:{artifact.role}")
        part.unlink()


def _facts(path: Path) -> tuple[int, ...]:
    """What changes when anybody writes to a file."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _unpack(source: Path, target: Path, artifact: Artifact, report: Callable[[int], None]) -> tuple[str, int]:
    """Decompress (or copy) `source`, at most `content_length` + 1 bytes of it; SHA-256 and length of the result."""
    with target.open("wb") as file:
        if not artifact.target.endswith(".zst"):
            with source.open("rb") as plain:
                return _pour(plain, file, artifact.content_length, report)
        with subprocess.Popen(
            ["zstd", "--decompress", "--stdout", "--quiet", "--", str(source)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                return _pour(process.stdout, file, artifact.content_length, report)
            finally:
                process.kill()


def _pour(source: object, file: BinaryIO, limit: int, report: Callable[[int], None]) -> tuple[str, int]:
    digest, length = hashlib.sha256(), 0
    while length <= limit and (chunk := source.read(BLOCK)):  # type: ignore[attr-defined]
        digest.update(chunk)
        length += len(chunk)
        if chunk.count(0) == len(chunk):
            file.seek(length)  # a hole: an image of a whole slot is mostly empty
        else:
            faults.point("unpack")
            file.write(chunk)
        report(length)
    file.truncate(length)
    flush(file)
    return digest.hexdigest(), length


def esp_preflight(esp: Path, release: Release, layout: Layout, freed: int) -> None:
    """See that the ESP can take the new UKI, `freed` bytes being removed before. Raises `NoSpace`."""
    free = shutil.disk_usage(esp).free + freed
    needed = release.artifact(Role.UKI).content_length + layout.esp.uki_reserve_mib * 1024 * 1024
    if free < needed:
        raise NoSpace(
            f"The ESP at {esp} has room for {mib(free)}, the new kernel image needs {mib(needed)}; "
            "remove what does not belong there (only this image's UKIs, the loader and its settings do)"
        )


__all__ = ["RESERVE", "NoSpace", "Progress", "Transfer", "TransferError", "esp_preflight", "hash_file"]
