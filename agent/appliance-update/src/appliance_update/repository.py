"""The update repository: TUF metadata verified by python-tuf, and the releases that it names.

Source: https://theupdateframework.github.io/specification/latest/
"""

from __future__ import annotations

import contextlib
import datetime
import inspect
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
from securesystemslib.exceptions import StorageError
from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp  # type: ignore[attr-defined]
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from appliance_update import faults
from appliance_update.clock import as_datetime, spoken
from appliance_update.layout import Layout
from appliance_update.release import CUSTOM_KEY, Release, SignedFile, Unsuitable, admit, version_key
from appliance_update.web import CaptivePortal, NotThere, WebError, looks_like_page, opened


class CheckError(RuntimeError):
    """The repository could not be read or not be trusted; the message says which, and what to do."""


@dataclass(frozen=True)
class Catalogue:
    """What the repository offers this device. `unsuitable` maps a target's path to the reason.

    `signed_at` is the latest time (seconds since the epoch) that the verified metadata says it was signed at.
    """

    releases: tuple[Release, ...]
    unsuitable: dict[str, str]
    signed_at: float

    def newest(self) -> Release | None:
        """The release with the highest version."""
        return max(self.releases, key=lambda release: version_key(release.version), default=None)


class Fetcher(FetcherInterface):
    """Hands TUF its metadata through our own HTTP rules."""

    def __init__(self, client: requests.Session) -> None:
        self._client = client

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            with opened(self._client, url) as response:
                first = True
                for chunk in response.iter_content(16 * 1024):
                    if first and looks_like_page(chunk, ""):
                        raise CaptivePortal(f"{url}: a web page came back instead of metadata: a captive portal?")
                    first = False
                    yield chunk
        except NotThere as error:
            raise DownloadHTTPError(str(error), error.status) from error
        except WebError as error:
            raise DownloadError(str(error)) from error


@dataclass(frozen=True)
class Repository:
    """One repository: metadata below URL/metadata/, files below URL/targets/."""

    url: str
    cache: Path
    trusted_root: Path
    client: requests.Session

    def target_url(self, path: str, sha256: str) -> str:
        """Where a target lies (consistent snapshots: its name begins with its hash)."""
        directory, slash, name = path.rpartition("/")
        return f"{self.url.rstrip('/')}/targets/{directory}{slash}{sha256}.{name}"

    def refresh(self, layout: Layout, device_class: str, flavour: str, now: float) -> Catalogue:
        """Fetch and verify the metadata, as of `now` (see `clock.trusted_time`). Raises `CheckError`."""
        faults.point("tuf:refresh")
        try:
            self._refresh(now)
        except ExpiredMetadataError as error:
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
        faults.point("tuf:refreshed")
        return self._catalogue(layout, device_class, flavour)

    def _refresh(self, now: float) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        try:
            trusted = self.trusted_root.read_bytes()
        except OSError as error:
            raise CheckError(f"The trusted root {self.trusted_root} is missing: the image must carry it") from error
        config = UpdaterConfig(targets_max_length=16 * 1024 * 1024)
        base = f"{self.url.rstrip('/')}/metadata/"
        fetcher = Fetcher(self.client)
        if "bootstrap" in inspect.signature(Updater.__init__).parameters:  # python-tuf 6 and later
            # mypy sees only the newest signature; 5.1 (the image's) takes the other branch.
            updater = Updater(str(self.cache), base, fetcher=fetcher, config=config, bootstrap=trusted)
        else:
            self._seed(trusted)
            updater = Updater(str(self.cache), base, fetcher=fetcher, config=config)  # type: ignore[call-arg]
        # python-tuf judges expiry by the wall clock alone; ours may say 1970.
        updater._trusted_set.reference_time = as_datetime(now)
        updater.refresh()

    def _seed(self, trusted: bytes) -> None:
        """Give python-tuf 5.1 its first root, and again when the cached one is damaged or older than the image's."""
        cached = self.cache / "root.json"
        with contextlib.suppress(OSError, StorageError, RepositoryError, ValueError):
            own, shipped = Metadata[Root].from_file(str(cached)), Metadata[Root].from_bytes(trusted)
            if own.signed.version >= shipped.signed.version:
                return
        cached.unlink(missing_ok=True)
        cached.write_bytes(trusted)

    def forget(self) -> None:
        """Throw the cache away (the trusted root of the image stays): for a cache that cannot be read."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def _catalogue(self, layout: Layout, device_class: str, flavour: str) -> Catalogue:
        try:
            targets = Metadata[Targets].from_file(str(self.cache / "targets.json")).signed
            times = [_signed_at(targets)]
            times.append(_signed_at(Metadata[Timestamp].from_file(str(self.cache / "timestamp.json")).signed))
            times.append(_signed_at(Metadata[Snapshot].from_file(str(self.cache / "snapshot.json")).signed))
        except (RepositoryError, StorageError, OSError, ValueError) as error:
            raise CheckError(f"The metadata cache {self.cache} cannot be read back: {error}") from error
        files = {
            path: SignedFile(target.length, target.hashes["sha256"])
            for path, target in targets.targets.items()
            if "sha256" in target.hashes
        }
        releases, unsuitable = [], {}
        for path, target in targets.targets.items():
            custom = target.custom if isinstance(target.custom, dict) else {}
            if CUSTOM_KEY not in custom:
                continue
            try:
                releases.append(admit(custom[CUSTOM_KEY], files, layout, device_class, flavour))
            except Unsuitable as error:
                unsuitable[path] = str(error)
        return Catalogue(tuple(releases), unsuitable, max(times))


def _signed_at(signed: Targets | Timestamp | Snapshot) -> float:
    """When the publisher says it signed: an own field of our publisher's, absent in others'."""
    value = signed.unrecognized_fields.get("x-appliance-signed-at")
    if not isinstance(value, str):
        return 0.0
    try:
        return datetime.datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return 0.0
