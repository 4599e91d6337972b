"""Fetching the artifacts of a release: resumable, checked before the first byte, verified after the last.

Partial files are named by the hash of what they will be, so that a partial file can never be continued with
something else, and a download that was cut goes on where it stopped, whenever that is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests

from appliance_update import faults
from appliance_update.files import flush_directory
from appliance_update.layout import Layout, Role
from appliance_update.release import Artifact, Release, staged_name
from appliance_update.repository import Repository
from appliance_update.web import CHUNK, CaptivePortal, WebError, looks_like_page, opened

RESERVE = 64 * 1024 * 1024
"""Bytes that stay free on the state partition whatever is fetched: evidence comes first."""
BLOCK = 1024 * 1024
FLUSH_EVERY = 32 * 1024 * 1024
ATTEMPTS = 5


class TransferError(RuntimeError):
    """An artifact that could not be fetched or is not what was signed; the message names it and the reason."""


class NoSpace(TransferError):
    """There is not enough room; nothing was fetched."""


Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True)
class Transfer:
    """Where artifacts are fetched to (`downloads`), and where they lie verified (`staging`)."""

    repository: Repository
    layout: Layout
    downloads: Path
    staging: Path
    pause: Callable[[float], None] = time.sleep

    def staged(self, release: Release, artifact: Artifact) -> Path:
        """The verified file of an artifact, whether it is there or not."""
        return self.staging / staged_name(artifact, release.version, self.layout)

    def tidy(self, release: Release) -> None:
        """Remove what belongs to other releases than this one."""
        wanted = {f"{artifact.sha256}.part" for artifact in release.artifacts}
        wanted |= {self.staged(release, artifact).name for artifact in release.artifacts}
        for directory in (self.downloads, self.staging):
            for path in directory.iterdir() if directory.is_dir() else ():
                if path.name not in wanted and path.is_file():
                    faults.point(f"tidy:{path.name}")
                    path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything fetched."""
        for directory in (self.downloads, self.staging):
            shutil.rmtree(directory, ignore_errors=True)

    def preflight(self, release: Release) -> None:
        """See that the state partition can take the release at its peak. Raises `NoSpace` before the first byte."""
        self.downloads.mkdir(parents=True, exist_ok=True)
        self.staging.mkdir(parents=True, exist_ok=True)
        needed = biggest = 0
        for artifact in release.artifacts:
            if self.staged(release, artifact).exists():
                continue
            part = self.downloads / f"{artifact.sha256}.part"
            needed += artifact.content_length
            biggest = max(biggest, artifact.length - (part.stat().st_size if part.exists() else 0))
        if not needed:
            return
        free = shutil.disk_usage(self.downloads).free
        if free < needed + biggest + RESERVE:
            raise NoSpace(
                f"Release {release.version} needs {_mib(needed + biggest + RESERVE)} on {self.downloads}, "
                f"{_mib(free)} are free; make room there (old evidence is pruned daily by itself)"
            )

    def fetch(self, release: Release, progress: Progress) -> None:
        """Fetch whatever is not there yet. Raises `TransferError`."""
        total, done = release.download_size, 0
        for artifact in release.artifacts:
            if not self.staged(release, artifact).exists():
                base = done
                self._fetch_one(artifact, lambda count, base=base: progress(base + count, total))  # type: ignore[misc]
            done += artifact.length
            progress(done, total)

    def _fetch_one(self, artifact: Artifact, progress: Callable[[int], None]) -> None:
        part = self.downloads / f"{artifact.sha256}.part"
        failures = best = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            best = max(best, before)
            if before == artifact.length:
                return  # whole; `verify` says whether it is right
            try:
                self._continue(artifact, part, progress)
                return
            except CaptivePortal as error:
                raise TransferError(str(error)) from error
            except WebError as error:
                after = part.stat().st_size if part.exists() else 0
                # A flapping link that gets further is good enough; one that only gets as far as before is not, else a
                # file that is too short on the server would be fetched for ever.
                failures = 0 if after > best else failures + 1
                if failures >= ATTEMPTS:
                    raise TransferError(f"{artifact.target}: {error} ({failures} attempts without progress)") from error
                self.pause(min(2.0**failures, 30.0))
            except OSError as error:
                raise TransferError(f"{artifact.target}: {part} cannot be written: {error.strerror}") from error

    def _continue(self, artifact: Artifact, part: Path, progress: Callable[[int], None]) -> None:
        have = part.stat().st_size if part.exists() else 0
        if have > artifact.length:
            part.unlink()
            have = 0
        url = self.repository.target_url(artifact.target, artifact.sha256)
        with opened(self.repository.client, url, have) as response:
            if response.status_code == 416:  # the file is not what we began with; begin again
                part.unlink(missing_ok=True)
                raise WebError(f"{url}: the server does not continue at byte {have}")
            if have and response.status_code == 206 and not _continues_at(response, have):
                part.unlink()  # a confused server or proxy; begin again without asking for a part
                raise WebError(f"{url}: asked to continue at byte {have}, the server sent another part")
            if have and response.status_code != 206:
                have = 0  # the server ignored Range and sends the whole file
            with part.open("r+b" if have else "wb") as file:
                file.seek(have)
                file.truncate()
                self._receive(response, artifact, file, have, progress)
        faults.point(f"fetched:{artifact.role}")

    def _receive(
        self,
        response: requests.Response,
        artifact: Artifact,
        file: BinaryIO,
        have: int,
        progress: Callable[[int], None],
    ) -> None:
        unflushed = 0
        for chunk in response.iter_content(CHUNK):
            if not have and looks_like_page(chunk, ""):
                raise CaptivePortal(f"{response.url}: a web page came back instead of the file: a captive portal?")
            if have + len(chunk) > artifact.length:
                raise TransferError(f"{artifact.target}: the server sends more than the {artifact.length} bytes signed")
            faults.point(f"chunk:{artifact.role}")
            file.write(chunk)
            have, unflushed = have + len(chunk), unflushed + len(chunk)
            if unflushed >= FLUSH_EVERY:
                file.flush()
                os.fsync(file.fileno())
                unflushed = 0
            progress(have)
        file.flush()
        os.fsync(file.fileno())
        if have < artifact.length:
            raise WebError(f"{response.url}: the connection ended after {have} of {artifact.length} bytes")

    # -- verification -------------------------------------------------------------------------------------------------

    def verify(self, release: Release, progress: Progress) -> None:
        """Check every artifact against what was signed and lay it, decompressed, into the staging directory.

        Raises `TransferError`; what was wrong is deleted, so that the next run fetches it anew.
        """
        total, done = sum(artifact.content_length for artifact in release.artifacts), 0
        for artifact in release.artifacts:
            base = done

            def report(count: int, base: int = base) -> None:
                progress(base + count, total)

            final = self.staged(release, artifact)
            if final.exists():
                if hash_file(final, report) != (artifact.content_sha256, artifact.content_length):
                    final.unlink()
                    raise TransferError(f"{final.name} in {self.staging} has changed since it was verified; deleted")
            else:
                self._verify_one(artifact, final, report)
            done += artifact.content_length

    def _verify_one(self, artifact: Artifact, final: Path, report: Callable[[int], None]) -> None:
        part = self.downloads / f"{artifact.sha256}.part"
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
            raise TransferError(f"{unpacked} cannot be written: {error.strerror or error}") from error
        if found != (artifact.content_sha256, artifact.content_length):
            unpacked.unlink(missing_ok=True)
            part.unlink()
            raise TransferError(f"{artifact.target} does not contain what was signed; deleted")
        faults.point(f"stage:{artifact.role}")
        unpacked.replace(final)
        flush_directory(final.parent)
        faults.point(f"staged:{artifact.role}")
        part.unlink()


def hash_file(path: Path, report: Callable[[int], None]) -> tuple[str, int]:
    """SHA-256 and length of a file. Raises `OSError`."""
    digest, length = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(BLOCK):
            digest.update(chunk)
            length += len(chunk)
            report(length)
    return digest.hexdigest(), length


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
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest(), length


def _continues_at(response: requests.Response, offset: int) -> bool:
    return response.headers.get("Content-Range", "").strip().lower().startswith(f"bytes {offset}-")


def _mib(count: int) -> str:
    return f"{count / 1048576:.0f} MiB"


def esp_preflight(esp: Path, release: Release, layout: Layout, freed: int) -> None:
    """See that the ESP can take the new UKI, `freed` bytes being removed before. Raises `NoSpace`."""
    free = shutil.disk_usage(esp).free + freed
    needed = release.artifact(Role.UKI).content_length + layout.esp.uki_reserve_mib * 1024 * 1024
    if free < needed:
        raise NoSpace(
            f"The ESP at {esp} has room for {_mib(free)}, the new kernel image needs {_mib(needed)}; "
            "remove what does not belong there (only this image's UKIs, the loader and its settings do)"
        )
