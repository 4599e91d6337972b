"""The update repository: the releases that its verified metadata names, and where their files lie."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import requests
from securesystemslib.exceptions import StorageError
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]

from appliance_update import faults
from appliance_update.layout import Layout, Role
from appliance_update.release import (
    CUSTOM_KEY,
    Beyond,
    Chunks,
    NeedsReader,
    Release,
    SignedFile,
    Unsuitable,
    admit,
    installed_chunks,
    version_key,
)
from appliance_update.tuf_client import CheckError, Client


@dataclass(frozen=True)
class Catalogue:
    """What the repository offers this device. `unsuitable` maps a target's path to the reason.

    `signed_at` is the latest time (seconds since the epoch) that the verified metadata says it was signed at; `beyond`
    are the releases for this device that only a newer updater can apply.
    """

    releases: tuple[Release, ...]
    unsuitable: dict[str, str]
    signed_at: float
    beyond: tuple[Beyond, ...] = ()

    def newest(self) -> Release | None:
        """The release with the highest version."""
        return max(self.releases, key=lambda release: version_key(release.version), default=None)


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
        tuf = self._tuf()
        tuf.refresh(now)
        faults.point("tuf:refreshed")
        return self._catalogue(layout, device_class, flavour, tuf.signed_at())

    def chunks_of(self, version: str, role: Role) -> Chunks | None:
        """The chunk index of a version in the verified metadata at hand, for whoever has that version installed."""
        try:
            targets = Metadata[Targets].from_file(str(self.cache / "targets.json")).signed
        except (RepositoryError, StorageError, OSError, ValueError):
            return None
        files = signed_files(targets)
        for target in targets.targets.values():
            custom = target.custom if isinstance(target.custom, dict) else {}
            found = installed_chunks(custom.get(CUSTOM_KEY), files, version, role)
            if found is not None:
                return found
        return None

    def _tuf(self) -> Client:
        try:
            trusted = self.trusted_root.read_bytes()
        except OSError as error:
            raise CheckError(f"The trusted root {self.trusted_root} is missing: the image must carry it") from error
        return Client(f"{self.url.rstrip('/')}/metadata/", self.cache, self.client, trusted)

    def forget(self) -> None:
        """Throw the cache away (the trusted root of the image stays): for a cache that cannot be read."""
        Client("", self.cache, self.client).forget()

    def _catalogue(self, layout: Layout, device_class: str, flavour: str, signed_at: float) -> Catalogue:
        try:
            targets = Metadata[Targets].from_file(str(self.cache / "targets.json")).signed
        except (RepositoryError, StorageError, OSError, ValueError) as error:
            raise CheckError(f"The metadata cache {self.cache} cannot be read back: {error}") from error
        files = signed_files(targets)
        admitted: dict[str, Release] = {}
        beyond, unsuitable = [], {}
        for path, target in targets.targets.items():
            custom = target.custom if isinstance(target.custom, dict) else {}
            if CUSTOM_KEY not in custom:
                continue
            try:
                admitted[path] = admit(custom[CUSTOM_KEY], files, layout, device_class, flavour)
            except NeedsReader as error:
                unsuitable[path] = str(error)
                beyond.append(error.beyond)
            except Unsuitable as error:
                unsuitable[path] = str(error)
        releases = _unambiguous(admitted, unsuitable)
        return Catalogue(releases, unsuitable, signed_at, tuple(beyond))


def signed_files(targets: Targets) -> dict[str, SignedFile]:
    """Every signed target by path; one without SHA-256 is none for us."""
    return {
        path: SignedFile(target.length, target.hashes["sha256"])
        for path, target in targets.targets.items()
        if "sha256" in target.hashes
    }


def _unambiguous(admitted: dict[str, Release], unsuitable: dict[str, str]) -> tuple[Release, ...]:
    """Only one description may speak for a version; of two that do, neither is believed."""
    count = Counter(release.version for release in admitted.values())
    for path, release in admitted.items():
        if count[release.version] > 1:
            unsuitable[path] = f"{release.version} is described {count[release.version]} times"
    return tuple(release for release in admitted.values() if count[release.version] == 1)


__all__ = ["Catalogue", "CheckError", "Repository"]
