"""The Update Framework's client workflow by python-tuf, judged by our clock and fetched by our HTTP rules.

Real updates and `appliance-update tuf-client` both come through here.
Source: https://theupdateframework.github.io/specification/latest/#detailed-client-workflow
"""

from __future__ import annotations

import contextlib
import datetime
import inspect
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from securesystemslib.exceptions import StorageError
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
)
from tuf.api.metadata import Metadata, Root, TargetFile  # type: ignore[attr-defined]
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from appliance_update.clock import as_datetime, spoken
from appliance_update.download import Download, File, TransferError
from appliance_update.files import flush_directory
from appliance_update.web import NotThere, WebError, body, opened

MOST_ROOTS = 1024
"""Root versions followed in one refresh: a device that was off for years and a publisher who rotates weekly."""

TARGETS_LIMIT = 16 * 1024 * 1024
"""Bytes of targets metadata: some thousand releases."""

CACHED = ("timestamp", "snapshot", "targets")
"""The roles whose time of signing is believed, while the root at hand names the keys that signed them."""


PARTIAL = ".partial"
"""Where a target lies, below the directory it is fetched into, until it is whole and verified."""


class CheckError(RuntimeError):
    """The repository could not be read or not be trusted; the message says which, and what to do."""


class Fetcher(FetcherInterface):
    """Hands TUF its files through our own HTTP rules."""

    def __init__(self, client: requests.Session) -> None:
        self._client = client

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            with opened(self._client, url) as response:
                yield from body(self._client, response)
        except NotThere as error:
            raise DownloadHTTPError(str(error), error.status) from error
        except WebError as error:
            raise DownloadError(str(error)) from error


@dataclass(frozen=True)
class Client:
    """The verified metadata of one repository, kept in `cache`.

    `trusted_root` is the root metadata to begin with; None takes the one that already lies in the cache.
    """

    metadata_url: str
    cache: Path
    http: requests.Session
    trusted_root: bytes | None = None

    def refresh(self, now: float) -> Updater:
        """Fetch and verify root, timestamp, snapshot and targets as of `now` (see `clock.trusted_time`).

        The time at which metadata in the cache was signed counts as well: it cannot be earlier than that. Raises
        `CheckError`.
        """
        with self._explained(now):
            updater = self._updater(now)
            updater.refresh()
            self._flush()
            return updater

    def _flush(self) -> None:
        """Make the versions that were seen outlive a power cut: an older one is refused by them. Raises `OSError`."""
        for directory in (self.cache / "root_history", self.cache):
            for path in directory.glob("*.json"):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if directory.is_dir():
                flush_directory(directory)

    def download(self, names: list[str], target_url: str, directory: Path, now: float) -> None:
        """Refresh, then bring the named targets, verified, into `directory`; stop at the first that fails.

        A target that lies there already with the signed hashes is not fetched again. Raises `CheckError`.
        """
        updater = self.refresh(now)
        for name in names:
            with self._explained(now):
                _forget_delegations(updater)
                target = updater.get_targetinfo(name)
                if target is None:
                    raise CheckError(f"{name}: no role that may sign it has signed it")
                self._download_one(updater, target, target_url, directory)

    def _download_one(self, updater: Updater, target: TargetFile, target_url: str, directory: Path) -> None:
        final = directory / quote(target.path, safe="")
        if updater.find_cached_target(target, str(final)) is not None:
            return
        digest = next(iter(target.hashes.values()))
        folder, slash, name = target.path.rpartition("/")
        hashed = f"{digest}.{name}" if updater._trusted_set.root.consistent_snapshot else name
        file = File(f"{target_url.rstrip('/')}/{folder}{slash}{hashed}", target.path, target.length, digest)
        download = Download(self.http, directory / PARTIAL, pause=lambda _seconds: None)
        download.directory.mkdir(parents=True, exist_ok=True)
        try:
            part = download.fetch(file, lambda _count: None)
            part.touch()  # a file of no bytes needs no request
            with part.open("rb") as content:
                target.verify_length_and_hashes(content)
            part.replace(final)
        except (TransferError, LengthOrHashMismatchError) as error:
            download.part(digest).unlink(missing_ok=True)
            raise CheckError(f"{target.path}: {error}") from error

    def signed_at(self) -> float:
        """The latest time (seconds since the epoch) that metadata in the cache says it was signed at; 0.0 if none."""
        with contextlib.suppress(RepositoryError, StorageError, OSError, ValueError):
            return latest_signing(self.cache, Metadata[Root].from_file(str(self.cache / "root.json")).signed)
        return 0.0

    def forget(self) -> None:
        """Throw the cache away (the trusted root of the image stays): for a cache that cannot be read."""
        shutil.rmtree(self.cache, ignore_errors=True)

    @contextlib.contextmanager
    def _explained(self, now: float) -> Iterator[None]:
        try:
            yield
        except ExpiredMetadataError as error:
            now = max(now, self.signed_at())
            raise CheckError(
                f"The repository's metadata has expired ({error}); by our clock it is {spoken(now)}. Either nobody "
                "renewed it, somebody replays an old one, or the clock is wrong"
            ) from error
        except DownloadError as error:
            raise CheckError(str(error)) from error
        except RepositoryError as error:
            raise CheckError(f"The repository's metadata is not to be trusted: {error}") from error
        except (OSError, StorageError, ValueError) as error:
            raise CheckError(f"The metadata cache {self.cache} cannot be used: {error}") from error

    def _updater(self, now: float) -> Updater:
        self.cache.mkdir(parents=True, exist_ok=True)
        config = UpdaterConfig(targets_max_length=TARGETS_LIMIT, max_root_rotations=MOST_ROOTS)
        options: dict[str, Any] = {"fetcher": Fetcher(self.http), "config": config}
        if "bootstrap" in inspect.signature(Updater.__init__).parameters:  # python-tuf 6 and later
            options["bootstrap"] = self.trusted_root
        elif self.trusted_root is not None:
            self._seed(self.trusted_root)
        updater = _Updater(str(self.cache), self.metadata_url, **options)
        updater.now = now
        return updater

    def _seed(self, trusted: bytes) -> None:
        """Give python-tuf 5.1 its first root, and again when the cached one is damaged or older than the image's."""
        cached = self.cache / "root.json"
        with contextlib.suppress(OSError, StorageError, RepositoryError, ValueError):
            own, shipped = Metadata[Root].from_file(str(cached)), Metadata[Root].from_bytes(trusted)
            if own.signed.version >= shipped.signed.version:
                return
        cached.unlink(missing_ok=True)
        cached.write_bytes(trusted)


class _Updater(Updater):
    """python-tuf's workflow, judged by our time: the wall clock, which is all it knows, may say 1970."""

    now = 0.0

    def _load_root(self) -> None:
        """Walk the roots, then say what time it is: only now is it known whose word on that still counts."""
        super()._load_root()
        signed = latest_signing(Path(self._dir), self._trusted_set.root)
        self._trusted_set.reference_time = as_datetime(max(self.now, signed))


def _forget_delegations(updater: Updater) -> None:
    """Look every target up from the top: before 7.0.1 python-tuf took a role one delegator vouches for as all's."""
    loaded = updater._trusted_set
    if not hasattr(loaded, "contains"):
        for role in set(loaded._trusted_set) - {"root", "timestamp", "snapshot", "targets"}:
            del loaded._trusted_set[role]


def latest_signing(cache: Path, root: Root) -> float:
    """The latest time (seconds since the epoch) that verified metadata in `cache` was signed at; 0.0 if none.

    What keys signed that `root` names no longer does not count. So a thief of online keys who signs a time far ahead
    has stopped updates only until those keys are replaced, which is how the specification heals a version number that
    was driven up (section 5.3.11).
    """
    latest = 0.0
    for role in CACHED:
        with contextlib.suppress(RepositoryError, StorageError, OSError, ValueError):
            metadata: Metadata[Any] = Metadata.from_file(str(cache / f"{role}.json"))
            root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
            latest = max(latest, signing_time(metadata.signed))
    return latest


def signing_time(signed: Any) -> float:
    """When the publisher says it signed: an own field of our publisher's, absent in others'."""
    value = signed.unrecognized_fields.get("x-appliance-signed-at")
    if not isinstance(value, str):
        return 0.0
    try:
        return datetime.datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return 0.0
