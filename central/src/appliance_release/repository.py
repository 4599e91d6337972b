"""A TUF repository as static files: DIR/metadata and DIR/targets, with consistent snapshots.

Source: https://theupdateframework.github.io/specification/latest/
"""

from __future__ import annotations

import datetime
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import StorageError
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from appliance_release import keys
from appliance_release.artifacts import Artifact, ArtifactError, Measured, checked_version, packed, root_hash

CUSTOM_KEY = "appliance_release"
SIGNED_AT = "x-appliance-signed-at"
LIFETIMES = {"root": 730, "targets": 365, "snapshot": 60, "timestamp": 30}
"""Days until a role's metadata expires: a site may be without its uplink for days, its provider for a week."""


class PublishError(ValueError):
    """Something that must not be published, or a repository that cannot be read; the message says what and why."""


@dataclass(frozen=True)
class Description:
    """What a release says of itself beyond its files."""

    version: str
    device_classes: tuple[str, ...] = ("t640",)
    min_reader: int = 1
    security_epoch: int = 0
    notes: str = ""


@dataclass(frozen=True)
class Published:
    """One release in the repository."""

    version: str
    device_classes: tuple[str, ...]
    flavour: str
    root_hash: str
    length: int
    published_at: float


@dataclass(frozen=True)
class Repository:
    """The directory, its keys, and the time to sign with (seconds since the epoch)."""

    directory: Path
    keys: Path
    now: float

    @property
    def metadata(self) -> Path:
        """Where the metadata lies."""
        return self.directory / "metadata"

    @property
    def targets(self) -> Path:
        """Where the files lie."""
        return self.directory / "targets"

    # -- making -------------------------------------------------------------------------------------------------------

    def init(self) -> Path:
        """A new, empty repository; the file to ship as root.json. Raises `PublishError`, `KeyFileError`."""
        if (self.metadata / "timestamp.json").exists():
            raise PublishError(f"{self.directory} is a repository already")
        root = Root(consistent_snapshot=True, expires=self._expiry("root"))
        for role in ("root", "targets", "snapshot", "timestamp"):
            root.add_key(keys.signer(self.keys, role).public_key, role)
        self.metadata.mkdir(parents=True, exist_ok=True)
        self.targets.mkdir(parents=True, exist_ok=True)
        trusted = self._write(Metadata(self._stamped(root)), "root", "1.root.json")
        self._sign_all(Targets(expires=self._expiry("targets")))
        return trusted

    def publish(self, description: Description, artifacts: list[Artifact], level: int = 6) -> Published:
        """Add one release and sign everything anew. Raises `PublishError`, `ArtifactError`, `KeyFileError`."""
        number = checked_version(description.version)
        current = self._load("targets").signed
        assert isinstance(current, Targets)
        for release in releases(current):
            if (
                set(release.device_classes) & set(description.device_classes)
                and checked_version(release.version) >= number
            ):
                raise PublishError(
                    f"{release.version} is published already; {description.version} must be higher "
                    "(devices never go back by themselves, a fix carries a new version)"
                )
        keys.signer(self.keys, "targets")  # before a gigabyte is compressed
        digest, flavour = root_hash(artifacts)
        written, main = [], None
        for artifact in artifacts:
            path = f"{description.device_classes[0]}/{artifact.name}"
            with packed(artifact, level) as (file, measured):
                self._place(file, path, measured.sha256)
            target = TargetFile(measured.length, {"sha256": measured.sha256}, path)
            current.targets[path] = target
            written.append(_described(artifact, path, measured))
            main = target
        assert main is not None
        main.unrecognized_fields["custom"] = {CUSTOM_KEY: self._custom(description, digest, flavour, written)}
        current.version += 1
        current.expires = self._expiry("targets")
        self._sign_all(current)
        return next(release for release in releases(current) if release.version == description.version)

    def renew(self) -> None:
        """Sign snapshot and timestamp anew, with the online keys alone. Raises `PublishError`, `KeyFileError`."""
        targets = self._load("targets").signed
        self._sign_snapshot(targets.version)

    def _custom(
        self, description: Description, digest: str, flavour: str, written: list[dict[str, Any]]
    ) -> dict[str, Any]:
        return {
            "format": 1,
            "version": description.version,
            "device_classes": list(description.device_classes),
            "min_reader": description.min_reader,
            "security_epoch": description.security_epoch,
            "flavour": flavour,
            "root_hash": digest,
            "artifacts": written,
            "published_at": int(self.now),  # canonical JSON knows no fractions
            "notes": description.notes,
        }

    def _place(self, file: Path, path: str, sha256: str) -> None:
        directory, _, name = path.rpartition("/")
        target = self.targets / directory / f"{sha256}.{name}"
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        shutil.copyfile(file, temporary)
        temporary.replace(target)

    # -- signing ------------------------------------------------------------------------------------------------------

    def _sign_all(self, targets: Targets) -> None:
        """targets, snapshot, timestamp, in this order: who reads in between sees the old state whole."""
        self._write(Metadata(self._stamped(targets)), "targets", f"{targets.version}.targets.json")
        self._sign_snapshot(targets.version)

    def _sign_snapshot(self, targets_version: int) -> None:
        snapshot = Snapshot(version=self._version("snapshot") + 1, expires=self._expiry("snapshot"))
        snapshot.meta["targets.json"] = MetaFile(targets_version)
        self._write(Metadata(self._stamped(snapshot)), "snapshot", f"{snapshot.version}.snapshot.json")
        timestamp = Timestamp(version=self._version("timestamp") + 1, expires=self._expiry("timestamp"))
        timestamp.snapshot_meta = MetaFile(snapshot.version)
        self._write(Metadata(self._stamped(timestamp)), "timestamp", "timestamp.json")

    def _stamped(self, signed: Any) -> Any:
        """With the time of signing inside: devices whose clock says 1970 learn from it that it is later."""
        stamp = datetime.datetime.fromtimestamp(self.now, datetime.UTC).replace(microsecond=0)
        signed.unrecognized_fields[SIGNED_AT] = stamp.isoformat().replace("+00:00", "Z")
        return signed

    def _write(self, metadata: Metadata[Any], role: str, name: str) -> Path:
        metadata.sign(keys.signer(self.keys, role))
        path = self.metadata / name
        temporary = path.with_name(f".{name}.new")
        temporary.write_bytes(metadata.to_bytes())
        temporary.replace(path)
        return path

    def _expiry(self, role: str) -> datetime.datetime:
        start = datetime.datetime.fromtimestamp(self.now, datetime.UTC).replace(microsecond=0)
        return start + datetime.timedelta(days=LIFETIMES[role])

    def _version(self, role: str) -> int:
        return self._load(role).signed.version if (self.metadata / "timestamp.json").exists() else 0

    # -- reading ------------------------------------------------------------------------------------------------------

    def _load(self, role: str) -> Metadata[Any]:
        try:
            if role == "timestamp":
                return Metadata.from_file(str(self.metadata / "timestamp.json"))
            if role == "root":
                return Metadata.from_file(str(newest(self.metadata, "root")))
            timestamp = Metadata[Timestamp].from_file(str(self.metadata / "timestamp.json")).signed
            snapshot = Metadata[Snapshot].from_file(
                str(self.metadata / f"{timestamp.snapshot_meta.version}.snapshot.json")
            )
            if role == "snapshot":
                return snapshot
            number = snapshot.signed.meta["targets.json"].version
            return Metadata.from_file(str(self.metadata / f"{number}.targets.json"))
        except (OSError, StorageError, RepositoryError, KeyError, ValueError) as error:
            raise PublishError(f"{self.metadata} holds no readable {role} metadata: {error}") from error

    def published(self) -> list[Published]:
        """Every release, lowest version first. Raises `PublishError`."""
        targets = self._load("targets").signed
        return sorted(releases(targets), key=lambda release: checked_version(release.version))

    def verify(self) -> list[str]:
        """What is wrong with the repository as a client would find it; empty when nothing is. Raises `PublishError`."""
        problems = []
        root = self._load("root")
        now = datetime.datetime.fromtimestamp(self.now, datetime.UTC)
        for role in ("root", "targets", "snapshot", "timestamp"):
            metadata = self._load(role)
            try:
                root.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
            except (RepositoryError, ValueError) as error:
                problems.append(f"{role}: {error}")
            if metadata.signed.is_expired(now):
                problems.append(
                    f"{role}: expired on {metadata.signed.expires:%Y-%m-%d %H:%M} UTC; run `renew` or publish"
                )
        for path, target in self._load("targets").signed.targets.items():
            problems += self._verify_file(path, target)
        return problems

    def _verify_file(self, path: str, target: TargetFile) -> list[str]:
        directory, _, name = path.rpartition("/")
        file = self.targets / directory / f"{target.hashes['sha256']}.{name}"
        try:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                length = stream.tell()
        except OSError as error:
            return [f"{file}: {error.strerror}"]
        return [] if (digest, length) == (target.hashes["sha256"], target.length) else [f"{file}: not what was signed"]


def newest(directory: Path, role: str) -> Path:
    """The file N.ROLE.json with the highest N. Raises `PublishError`."""
    numbers = [int(path.name.split(".")[0]) for path in directory.glob(f"*.{role}.json") if path.name[0].isdigit()]
    if not numbers:
        raise PublishError(f"{directory} holds no {role} metadata; run `appliance-release init` first")
    return directory / f"{max(numbers)}.{role}.json"


def releases(targets: Targets) -> list[Published]:
    """The releases that targets metadata describes. Raises `PublishError` for one that this publisher cannot read."""
    found = []
    for path, target in targets.targets.items():
        custom = (target.custom or {}).get(CUSTOM_KEY)
        if custom is None:
            continue
        try:
            names = [artifact["target"] for artifact in custom["artifacts"]]
            found.append(
                Published(
                    custom["version"],
                    tuple(custom["device_classes"]),
                    custom.get("flavour", ""),
                    custom["root_hash"],
                    sum(targets.targets[name].length for name in names),
                    float(custom.get("published_at", 0.0)),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PublishError(f"The release at {path} cannot be read: {error!r}") from error
    return found


def _described(artifact: Artifact, path: str, measured: Measured) -> dict[str, Any]:
    return {
        "role": artifact.role,
        "target": path,
        "uuid": artifact.uuid,
        "length": measured.length,
        "sha256": measured.sha256,
        "content_length": measured.content_length,
        "content_sha256": measured.content_sha256,
    }


__all__ = ["ArtifactError", "Description", "PublishError", "Published", "Repository", "newest", "releases"]
