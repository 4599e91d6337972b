"""Seeing a repository as devices do, the newest and those that slept through every root there was."""

from __future__ import annotations

import datetime
import hashlib
from typing import TYPE_CHECKING

from securesystemslib.exceptions import StorageError
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile  # type: ignore[attr-defined]

from appliance_release.artifacts import ArtifactError, checked_version
from appliance_release.chunks import chunk_ids, chunk_problem
from appliance_release.publishing import CHUNK_STORE, place
from appliance_release.releases import former, releases
from appliance_release.ways import stranded

if TYPE_CHECKING:
    from appliance_release.repository import Repository


SOON = {"root": 60, "targets": 60, "snapshot": 14, "timestamp": 7}
"""Days before a role's metadata expires from which that is a problem: offline keys have to be fetched first."""

_OFFLINE, _DAILY = "`renew --root --targets` with the offline keys", "`renew`, which belongs into a daily timer"
RENEWED_BY = {"root": _OFFLINE, "targets": _OFFLINE, "snapshot": _DAILY, "timestamp": _DAILY}


def problems(repository: Repository) -> list[str]:
    """What is wrong; empty when nothing is. Raises `PublishError` when there is nothing to look at."""
    return [*_roots(repository), *_roles(repository), *_releases(repository), *_files(repository), *_chunks(repository)]


def _roots(repository: Repository) -> list[str]:
    """Every root must be there, and signed by its predecessor and by itself: old devices walk over all of them."""
    found = []
    trusted: Root | None = None
    for number in range(1, repository.root().version + 1):
        path = repository.metadata / f"{number}.root.json"
        try:
            metadata = Metadata[Root].from_file(str(path))
            if metadata.signed.version != number:
                raise RepositoryError(f"it says version {metadata.signed.version}")
            for root in (trusted, metadata.signed):
                if root is not None:
                    root.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
            trusted = metadata.signed
        except (OSError, StorageError, RepositoryError, ValueError) as error:
            found.append(f"{path.name}: {error}")
    return found


def _roles(repository: Repository) -> list[str]:
    found = []
    root = repository.root()
    now = datetime.datetime.fromtimestamp(repository.now, datetime.UTC)
    for role in ("root", "targets", "snapshot", "timestamp"):
        metadata = repository.load(role)
        try:
            root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except (RepositoryError, ValueError) as error:
            found.append(f"{role}: {error}")
        left = (metadata.signed.expires - now).total_seconds() / 86400
        if left < SOON[role]:
            when = "expired on" if left <= 0 else "expires on"
            found.append(f"{role}: {when} {metadata.signed.expires:%Y-%m-%d %H:%M} UTC; run {RENEWED_BY[role]}")
    return found


def _releases(repository: Repository) -> list[str]:
    targets = repository.load("targets").signed
    found = releases(targets)
    try:
        for release in found:
            checked_version(release.version)
    except ArtifactError as error:
        return [str(error)]
    return [str(item) for item in stranded(found, former(targets))]


def _files(repository: Repository) -> list[str]:
    targets = repository.load("targets").signed.targets
    total, done, found = sum(target.length for target in targets.values()), 0, []
    for path, target in targets.items():
        repository.report("verifying", done, total)
        found += _file(repository, path, target)
        done += target.length
    return found


def _file(repository: Repository, path: str, target: TargetFile) -> list[str]:
    file = place(repository, path, target.hashes["sha256"])
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            length = stream.tell()
    except OSError as error:
        return [f"{file}: {error.strerror}"]
    return [] if (digest, length) == (target.hashes["sha256"], target.length) else [f"{file}: not what was signed"]


def _chunks(repository: Repository) -> list[str]:
    """Every chunk that an index names must be there and be what its name says; what releases share is read once.

    A damaged one costs no device its update, but all of them the whole artifact's bytes.
    """
    targets, found = repository.load("targets").signed, []
    ids: dict[str, str] = {}
    for release in releases(targets):
        for path in release.indexes:
            index = place(repository, path, targets.targets[path].hashes["sha256"])
            try:
                ids = dict.fromkeys(chunk_ids(index), path) | ids
            except (ArtifactError, OSError) as error:
                found.append(f"{index}: {error}")
    wrong: dict[str, list[str]] = {}
    for done, (chunk_id, path) in enumerate(ids.items()):
        repository.report("verifying chunks", done, len(ids))
        if why := chunk_problem(repository.targets / CHUNK_STORE, chunk_id):
            wrong.setdefault(path, []).append(f"{chunk_id} ({why})")
    for path, reasons in wrong.items():
        found.append(
            f"{path}: {len(reasons)} of its chunks cannot be used, the first is {reasons[0]}. Put them back from a "
            f"copy of {CHUNK_STORE}/, or delete them: the next publish that needs them makes them anew"
        )
    return found
