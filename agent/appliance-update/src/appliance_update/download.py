"""One file over HTTP: continued where it broke, whenever that was, and never mixed with another file's bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import requests
from tenacity import RetryCallState, Retrying

from appliance_update import faults
from appliance_update.web import CaptivePortal, WebError, body, opened, packed

RESERVE = 64 * 1024 * 1024
"""Bytes that stay free on the state partition whatever is fetched: evidence comes first."""
BLOCK = 1024 * 1024
FLUSH_EVERY = 32 * 1024 * 1024
ATTEMPTS = 5
GAIN = 4096
"""Bytes further than before that count as progress: a server that yields ten at a time is none."""


class TransferError(RuntimeError):
    """An artifact that could not be fetched or is not what was signed; the message names it and the reason."""


class NoSpace(TransferError):
    """There is not enough room, or no longer."""


@dataclass
class Patience:
    """Gives up after some failures without progress; a flapping link that gets further is good enough."""

    reached: Callable[[], int]
    """How far it is (bytes)."""
    pause: Callable[[float], None] = time.sleep
    failures: int = 0
    best: int = 0
    hopeless: tuple[type[WebError], ...] = (CaptivePortal,)
    """What does not pass by waiting."""

    def retrying(self) -> Retrying:
        """Tenacity's loop around one attempt; the last `WebError` comes out of it."""
        return Retrying(
            retry=self._may_pass, after=self._count, stop=self._enough, wait=self._wait, sleep=self.pause, reraise=True
        )

    def _may_pass(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        return isinstance(error, WebError) and not isinstance(error, self.hopeless)

    def _count(self, _state: RetryCallState) -> None:
        self.failures += 1
        if self.reached() >= self.best + GAIN:
            self.best, self.failures = self.reached(), 0

    def _enough(self, _state: RetryCallState) -> bool:
        return self.failures >= ATTEMPTS

    def _wait(self, _state: RetryCallState) -> float:
        return min(2.0**self.failures, 30.0)


@dataclass(frozen=True)
class File:
    """A file to fetch: `length` bytes with `sha256` at `url`; `target` and `role` are for people and tests."""

    url: str
    target: str
    length: int
    sha256: str
    role: str = ""


@dataclass(frozen=True)
class Download:
    """Fetches files into `directory`, under the hash of what they will be."""

    client: requests.Session
    directory: Path
    pause: Callable[[float], None] = field(default=time.sleep)

    def part(self, sha256: str) -> Path:
        """Where a file lies while it is not whole, and until it is used."""
        return self.directory / f"{sha256}.part"

    def have(self, sha256: str) -> int:
        """Bytes of a file that are there."""
        try:
            return self.part(sha256).stat().st_size
        except OSError:
            return 0

    def fetch(self, file: File, progress: Callable[[int], None]) -> Path:
        """The file with all its bytes; whether they are right is for the caller to see. Raises `TransferError`."""
        part = self.part(file.sha256)
        patience = Patience(lambda: self.have(file.sha256), self.pause, best=self.have(file.sha256))
        try:
            patience.retrying()(self._attempt, file, part, progress)
        except CaptivePortal as error:
            raise TransferError(str(error)) from error
        except WebError as error:
            raise TransferError(f"{file.target}: {error} ({ATTEMPTS} attempts without progress)") from error
        except OSError as error:
            raise disk_error(error, file.target, part) from error
        return part

    def small(self, file: File) -> bytes:
        """A small file, verified. Raises `TransferError`."""
        part = self.fetch(file, lambda _count: None)
        try:
            content = part.read_bytes()
            part.unlink()
        except OSError as error:
            raise disk_error(error, file.target, part) from error
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise TransferError(f"{file.target} is not what was signed (hash or length differ); deleted")
        return content

    def _attempt(self, file: File, part: Path, progress: Callable[[int], None]) -> None:
        have = self.have(file.sha256)
        if have == file.length:
            return  # whole; the caller says whether it is right
        if have > file.length:
            part.unlink()
            have = 0
        with opened(self.client, file.url, have) as response:
            have = self._agreed(response, file, part, have)
            with part.open("r+b" if have else "wb") as target:
                target.seek(have)
                target.truncate()
                self._receive(response, file, target, have, progress)
        faults.point(f"fetched:{file.role}")

    def _agreed(self, response: requests.Response, file: File, part: Path, have: int) -> int:
        """From which byte on this answer goes; a confused one costs what we have, and the next asks for it all."""
        if not have:
            return 0
        if response.status_code == 416:  # the file is not what we began with; begin again
            part.unlink(missing_ok=True)
            raise WebError(f"{file.url}: the server does not continue at byte {have}", 416)
        if response.status_code != 206:
            return 0  # the server ignored Range and sends the whole file
        if not response.headers.get("Content-Range", "").strip().lower().startswith(f"bytes {have}-"):
            part.unlink()
            raise WebError(f"{file.url}: asked to continue at byte {have}, the server sent another part", 206)
        if packed(response, file.length - have):
            part.unlink()  # a part of a packed file is a part of nothing we know
            raise WebError(f"{file.url}: somebody in between packs the file, so that it cannot be continued", 206)
        return have

    def _receive(
        self, response: requests.Response, file: File, target: BinaryIO, have: int, progress: Callable[[int], None]
    ) -> None:
        unflushed = 0
        try:
            for piece in body(self.client, response, file.length - have):
                if have + len(piece) > file.length:
                    raise TransferError(f"{file.target}: the server sends more than the {file.length} bytes signed")
                faults.point(f"chunk:{file.role}")
                target.write(piece)
                have, unflushed = have + len(piece), unflushed + len(piece)
                if unflushed >= FLUSH_EVERY:
                    flush(target)
                    keep_reserve(self.directory, file.target)
                    unflushed = 0
                progress(have)
        finally:
            flush(target)
        if have < file.length:
            raise WebError(f"{response.url}: the connection ended after {have} of {file.length} bytes", 200)


def flush(file: Any) -> None:
    """Bring a file's bytes onto the disk. Raises `OSError`."""
    file.flush()
    os.fsync(file.fileno())


def flush_file(path: Path) -> None:
    """Bring a file that another program wrote onto the disk. Raises `OSError`."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def keep_reserve(directory: Path, what: str) -> None:
    """Stop before the last free space is ours: others write evidence there. Raises `NoSpace`."""
    free = shutil.disk_usage(directory).free
    if free < RESERVE // 2:
        raise NoSpace(
            f"{what}: the state partition filled up meanwhile, {mib(free)} are free at {directory}; "
            "what was fetched is kept, and the update goes on when there is room again "
            "(old evidence is pruned daily by itself)"
        )


def disk_error(error: OSError, what: str, path: Path) -> TransferError:
    """An error of the disk in words; a full one is `NoSpace`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"{what}: the state partition filled up while {path} was written ({error.strerror}); what was fetched is "
            "kept, and the update goes on when there is room again (old evidence is pruned daily by itself)"
        )
    return TransferError(f"{what}: {path} cannot be written: {error.strerror or error}")


def hash_file(path: Path, report: Callable[[int], None]) -> tuple[str, int]:
    """SHA-256 and length of a file. Raises `OSError`."""
    digest, length = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(BLOCK):
            digest.update(piece)
            length += len(piece)
            report(length)
    return digest.hexdigest(), length


def mib(count: float) -> str:
    """A number of bytes for people."""
    return f"{count / 1048576:.0f} MiB" if count >= 1048576 else f"{count / 1024:.0f} KiB"
