"""Adding a release, changing what is said of one, and taking one out."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]

from appliance_release.artifacts import Artifact, Measured, checked_version, measured, packed, root_hash, unpacked
from appliance_release.chunks import chunk_ids, chunk_path, make_index
from appliance_release.releases import (
    CUSTOM_KEY,
    Description,
    Downgrade,
    Former,
    Published,
    PublishError,
    add_former,
    checked,
    former,
    releases,
    written,
    written_artifact,
    written_downgrade,
)
from appliance_release.ways import stranded

if TYPE_CHECKING:
    from appliance_release.repository import Repository

CHUNK_STORE = "chunks"
"""Where all chunks lie, below the directory of targets: one store, so that versions share them."""

CHUNKED = ("verity", "data", "uki")
"""The artifacts that get an index: a device has their predecessors."""


def publish(
    repository: Repository,
    asked: Description,
    artifacts: list[Artifact],
    level: int = 6,
    *,
    chunks: bool = False,
    unproven: bool = False,
) -> Published:
    """Add one release and sign everything anew.

    `chunks` makes a chunk index beside each artifact; `unproven` publishes although devices would be left behind.
    Raises `PublishError`, `ArtifactError`, `KeyFileError`; then nothing has changed that a device can see.
    """
    description = checked(asked)
    with repository.exclusive():
        current = _targets(repository)
        digest, flavour = root_hash(artifacts)
        refuse(description, flavour, releases(current), former(current), unproven=unproven)
        for role in ("targets", "snapshot", "timestamp"):
            repository.signers(role)  # before a gigabyte is compressed
        described, main = [], None
        for artifact in artifacts:
            entry, main = _add(repository, current, description.device_classes[0], artifact, level, chunks)
            described.append(entry)
        assert main is not None
        main.unrecognized_fields["custom"] = {
            CUSTOM_KEY: written(description, digest, flavour, described, repository.signing_time)
        }
        current.version += 1
        repository.sign_targets(current)
        return _one(current, description.version, description.device_classes)


def amend(
    repository: Repository,
    version: str,
    device_class: str,
    *,
    cohort: int | None = None,
    from_versions: tuple[str, ...] = (),
    downgrade: Downgrade | None = None,
    notes: str | None = None,
    unproven: bool = False,
) -> Published:
    """Change what is said of a published release: wider or halted rollout, more proven versions, a downgrade to it.

    What this publisher does not know of the description stays. Raises `PublishError` also when devices would be left
    behind (unless `unproven`), `KeyFileError`.
    """
    with repository.exclusive():
        current = _targets(repository)
        release = _one(current, version, (device_class,))
        before = _lost(current)
        if from_versions and not release.from_versions:
            raise PublishError(f"{version} is offered from every version already; --from-version would make it less")
        checked(
            Description(
                version, from_versions=from_versions, downgrade=downgrade, cohort=100 if cohort is None else cohort
            )
        )
        custom = current.targets[release.target].custom[CUSTOM_KEY]
        if cohort is not None:
            custom["cohort"] = {"salt": version, **custom.get("cohort", {}), "percent": cohort}
        if from_versions:
            proven = {*release.from_versions, *from_versions}
            custom["from_versions"] = sorted(proven, key=checked_version)
        if downgrade:
            custom["downgrade"] = written_downgrade(downgrade)
        if notes is not None:
            custom["notes"] = notes
        if not unproven:
            _refuse_more_lost(current, before)
        current.version += 1
        repository.sign_targets(current)
        return _one(current, version, (device_class,))


def revoke(
    repository: Repository, version: str, device_class: str, reason: str, *, purge: bool, unproven: bool
) -> list[Path]:
    """Take a release out, so that no device picks it up any more; the files deleted when `purge`.

    Raises `PublishError` when devices would be left behind (unless `unproven`), `KeyFileError`.
    """
    with repository.exclusive():
        current = _targets(repository)
        release = _one(current, version, (device_class,))
        before = _lost(current)
        kept = {name for other in releases(current) if other.target != release.target for name in other.files}
        for name in (*release.files, release.target):
            if name not in kept:
                current.targets.pop(name, None)
        add_former(current, release, reason)
        if not unproven:
            _refuse_more_lost(current, before, f"{version} is on the way of others. ")
        current.version += 1
        repository.sign_targets(current)
        return _purge(repository, current) if purge else []


def _purge(repository: Repository, current: Targets) -> list[Path]:
    """Delete the files and chunks that no present target names."""
    wanted = {place(repository, path, target.hashes["sha256"]) for path, target in current.targets.items()}
    store = repository.targets / CHUNK_STORE
    for release in releases(current):
        for index in release.indexes:
            index_file = place(repository, index, current.targets[index].hashes["sha256"])
            wanted |= {chunk_path(store, chunk) for chunk in chunk_ids(index_file)}
    gone = [path for path in sorted(repository.targets.rglob("*")) if path.is_file() and path not in wanted]
    for path in gone:
        path.unlink()
    return gone


# -- what must not be published ---------------------------------------------------------------------------------------


def refuse(
    description: Description, flavour: str, present: list[Published], gone: list[Former], *, unproven: bool = False
) -> None:
    """See that a release may follow on those that are `present` and those that are `gone`. Raises `PublishError`."""
    everything: list[Published | Former] = [*present, *gone]
    peers = [item for item in everything if set(item.device_classes) & set(description.device_classes)]
    number = checked_version(description.version)
    for item in peers:
        if checked_version(item.version) == number:  # 2026.11.03 is 2026.11.3: devices compare by number
            raise PublishError(f"{item.version} was published already; a fix must be higher, with a version of its own")
        if checked_version(item.version) > number and description.downgrade is None:
            raise PublishError(
                f"{item.version} is published already; {description.version} must be higher (devices never go back by "
                "themselves, unless --downgrade-from and --downgrade-until allow it)"
            )
        if checked_version(item.version) < number:
            _refuse_step_back(description, item)
    if unproven:
        return
    ahead = Published(
        description.version, description.device_classes, flavour, "", 0, 0.0, description.min_reader,
        description.reader, description.security_epoch, description.stepping_stone, description.from_versions,
        description.cohort, description.downgrade,
    )  # fmt: skip
    before = {item.version for item in stranded(present, gone)}
    lost = [item for item in stranded([*present, ahead], gone) if item.version not in before]
    if lost:
        raise PublishError("\n".join(str(item) for item in lost))


def _lost(current: Targets) -> set[str]:
    """The versions whose devices do not find their way as it is."""
    return {item.version for item in stranded(releases(current), former(current))}


def _refuse_more_lost(current: Targets, before: set[str], because: str = "") -> None:
    """Refuse a change that leaves devices behind which were not before. Raises `PublishError`."""
    lost = [item for item in stranded(releases(current), former(current)) if item.version not in before]
    if lost:
        raise PublishError(because + "\n".join(str(item) for item in lost))


def _refuse_step_back(description: Description, item: Published | Former) -> None:
    if description.security_epoch < item.security_epoch:
        raise PublishError(
            f"{item.version} has security epoch {item.security_epoch}, {description.version} has "
            f"{description.security_epoch}: devices refuse to go back"
        )
    if description.reader < item.reader:
        raise PublishError(
            f"The updater in {item.version} is reader {item.reader}, in {description.version} reader "
            f"{description.reader}: devices would read less than before"
        )


# -- files ------------------------------------------------------------------------------------------------------------


def _add(
    repository: Repository, current: Targets, folder: str, artifact: Artifact, level: int, chunks: bool
) -> tuple[dict[str, Any], TargetFile]:
    path = f"{folder}/{artifact.name}"
    with packed(artifact, level, repository.report) as (file, sizes):
        target = _place_file(repository, current, path, file, sizes)
    entry = written_artifact(artifact, path, sizes)
    if chunks and artifact.role in CHUNKED:
        entry["chunks"] = _index(repository, current, folder, artifact)
    return entry, target


def _index(repository: Repository, current: Targets, folder: str, artifact: Artifact) -> dict[str, str]:
    """Chop the content of an artifact into the store, and publish the index."""
    path = f"{folder}/{artifact.name.removesuffix('.zst')}.caibx"
    store = repository.targets / CHUNK_STORE
    store.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as directory, unpacked(artifact, repository.report) as content:
        index = Path(directory) / "index.caibx"
        repository.report(f"chunking {artifact.name}", 0, 0)
        make_index(content, index, store)
        _place_file(repository, current, path, index, measured(index))
    return {"index": path, "store": CHUNK_STORE, "format": "caibx"}


def _place_file(repository: Repository, current: Targets, path: str, file: Path, sizes: Measured) -> TargetFile:
    final = place(repository, path, sizes.sha256)
    final.parent.mkdir(parents=True, exist_ok=True)
    if not final.exists():
        temporary = final.with_name(f".{final.name}.new")
        with file.open("rb") as source, temporary.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1024 * 1024)
            copy.flush()
            os.fsync(copy.fileno())
        temporary.replace(final)
    current.targets[path] = TargetFile(sizes.length, {"sha256": sizes.sha256}, path)
    return current.targets[path]


def place(repository: Repository, path: str, sha256: str) -> Path:
    """Where a target of this content lies: its hash stands before its name (TUF's consistent snapshots)."""
    directory, _, name = path.rpartition("/")
    return repository.targets / directory / f"{sha256}.{name}"


def _targets(repository: Repository) -> Targets:
    current = repository.load("targets").signed
    assert isinstance(current, Targets)
    return current


def _one(current: Targets, version: str, classes: tuple[str, ...]) -> Published:
    for release in releases(current):
        if release.version == version and set(release.device_classes) & set(classes):
            return replace(release)
    raise PublishError(f"{version} is not published for {', '.join(classes)}; see `appliance-release list`")
