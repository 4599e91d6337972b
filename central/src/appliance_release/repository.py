"""A TUF repository as static files: DIR/metadata and DIR/targets, with consistent snapshots.

Source: https://theupdateframework.github.io/specification/latest/
"""

from __future__ import annotations

import datetime
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import StorageError
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from appliance_release.artifacts import ArtifactError, Report, checked_version, silent
from appliance_release.keys import ROLES, KeyRing
from appliance_release.releases import (
    CUSTOM_KEY,
    Description,
    Downgrade,
    Published,
    PublishError,
    releases,
)

SIGNED_AT = "x-appliance-signed-at"
LIFETIMES = {"root": 730, "targets": 365, "snapshot": 60, "timestamp": 30}
"""Days until a role's metadata expires: a site may be without its uplink for days, its provider for a week."""

Signers = Mapping[str, list[CryptoSigner]]


@dataclass(frozen=True)
class Repository:
    """The directory, its keys, and the time to sign with (seconds since the epoch).

    `offline` is where the root and targets keys are when not in `keys`/offline, `passphrase` what they are encrypted
    with. `report` is told of progress: what, how much is done, how much there is (bytes or chunks).
    """

    directory: Path
    keys: Path
    now: float
    offline: Path | None = None
    passphrase: bytes = b""
    report: Report = silent

    @property
    def metadata(self) -> Path:
        """Where the metadata lies."""
        return self.directory / "metadata"

    @property
    def targets(self) -> Path:
        """Where the files lie."""
        return self.directory / "targets"

    @property
    def ring(self) -> KeyRing:
        """The private keys at hand."""
        return KeyRing(self.keys, self.offline, self.passphrase)

    @property
    def signing_time(self) -> float:
        """The time to sign with: never before what was signed last, for devices have learnt that time already."""
        return max(self.now, self.last_signed)

    @property
    def last_signed(self) -> float:
        """When the timestamp says that it was signed; 0.0 when there is none."""
        try:
            stamp = Metadata[Timestamp].from_file(str(self.metadata / "timestamp.json")).signed
            text = str(stamp.unrecognized_fields[SIGNED_AT])
            return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        except (OSError, StorageError, RepositoryError, KeyError, ValueError, OverflowError):
            return 0.0

    # -- what it does -------------------------------------------------------------------------------------------------

    def init(self, thresholds: Mapping[str, int] | None = None) -> Path:
        """A new, empty repository; the file to ship as root.json. Raises `PublishError`, `KeyFileError`."""
        if (self.metadata / "timestamp.json").exists():
            raise PublishError(f"{self.directory} is a repository already")
        root = Root(consistent_snapshot=True, expires=self.expiry("root"))
        signers = {role: self.ring.all_signers(role) for role in ROLES}
        for role, own in signers.items():
            for signer in own:
                root.add_key(signer.public_key, role)
            root.roles[role].threshold = threshold = (thresholds or {}).get(role, 1)
            if not 1 <= threshold <= len(root.roles[role].keyids):
                raise PublishError(f"{role} has {len(own)} keys, {threshold} of them cannot be asked for")
        self.metadata.mkdir(parents=True, exist_ok=True)
        self.targets.mkdir(parents=True, exist_ok=True)
        with self.exclusive():
            trusted = self.write(root, "root", "1.root.json", signers["root"])
            self.sign_targets(Targets(expires=self.expiry("targets")), signers)
        return trusted

    def renew(self, *, targets: bool = False) -> None:
        """Sign snapshot and timestamp anew, with the online keys alone. Raises `PublishError`, `KeyFileError`.

        With `targets`, which needs its offline keys, that role's metadata too.
        """
        with self.exclusive():
            current = self.load("targets").signed
            if targets:
                current.version += 1
                self.sign_targets(current)
            else:
                self.sign_snapshot(current.version)

    def published(self) -> list[Published]:
        """Every release, lowest version first. Raises `PublishError`."""
        return sorted(releases(self.load("targets").signed), key=lambda release: checked_version(release.version))

    # -- signing ------------------------------------------------------------------------------------------------------

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until nobody else changes the repository, and keep others out."""
        try:
            handle = os.open(self.metadata, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise PublishError(
                f"{self.directory} is no repository ({error.strerror}); run `appliance-release init` first"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def signers(self, role: str) -> list[CryptoSigner]:
        """Enough signers of a role, by the newest root. Raises `KeyFileError`."""
        return self.ring.signers(role, self.root())

    def sign_targets(self, targets: Targets, signers: Signers | None = None) -> None:
        """targets, snapshot, timestamp, in this order: who reads in between sees the old state whole."""
        targets.expires = self.expiry("targets")
        own = (signers or {}).get("targets") or self.signers("targets")
        self.write(targets, "targets", f"{targets.version}.targets.json", own)
        self.sign_snapshot(targets.version, signers)

    def sign_snapshot(self, targets_version: int, signers: Signers | None = None) -> None:
        """A new snapshot that names this targets metadata, then a new timestamp that names it."""
        named = Metadata[Targets].from_file(str(self.metadata / f"{targets_version}.targets.json"))
        self._refuse_dead(named.signed, "targets")
        snapshot = Snapshot(version=self._version("snapshot") + 1, expires=self.expiry("snapshot"))
        snapshot.meta["targets.json"] = MetaFile(targets_version)
        own = (signers or {}).get("snapshot") or self.signers("snapshot")
        self.write(snapshot, "snapshot", f"{snapshot.version}.snapshot.json", own)
        self.sign_timestamp(snapshot.version, signers)

    def sign_timestamp(self, snapshot_version: int, signers: Signers | None = None) -> None:
        """A new timestamp, the last file of every change."""
        self._refuse_dead(self.root(), "root")
        timestamp = Timestamp(version=self._version("timestamp") + 1, expires=self.expiry("timestamp"))
        timestamp.snapshot_meta = MetaFile(snapshot_version)
        own = (signers or {}).get("timestamp") or self.signers("timestamp")
        self.write(timestamp, "timestamp", "timestamp.json", own)

    def _refuse_dead(self, signed: Root | Targets, role: str) -> None:
        """Refuse to sign at a time at which `signed` has expired. Raises `PublishError`.

        Devices take the time of signing for the least time it can be. A clock that runs years ahead, here, would make
        every one of them find the rest expired.
        """
        at = datetime.datetime.fromtimestamp(self.signing_time, datetime.UTC)
        if signed.is_expired(at):
            raise PublishError(
                f"It is {at:%Y-%m-%d %H:%M} UTC here, and the {role} metadata expired on {signed.expires:%Y-%m-%d}: no "
                "device could use what is signed now. See whether this machine's clock is right; if it is, run `renew "
                "--root --targets` with the offline keys"
            )

    def write(self, signed: Any, role: str, name: str, signers: list[CryptoSigner]) -> Path:
        """Sign metadata with every signer given, and put it in its place whole.

        The time of signing is inside: devices whose clock says 1970 learn from it that it is later.
        """
        stamp = datetime.datetime.fromtimestamp(self.signing_time, datetime.UTC).replace(microsecond=0)
        signed.unrecognized_fields[SIGNED_AT] = stamp.isoformat().replace("+00:00", "Z")
        metadata = Metadata(signed)
        for signer in signers:
            metadata.sign(signer, append=True)
        self.root_of(signed).verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        path = self.metadata / name
        write_whole(path, metadata.to_bytes())
        return path

    def root_of(self, signed: Any) -> Root:
        """The root metadata that says who may sign `signed`."""
        return signed if isinstance(signed, Root) else self.root()

    def expiry(self, role: str) -> datetime.datetime:
        """When a role's metadata expires that is signed now."""
        start = datetime.datetime.fromtimestamp(self.signing_time, datetime.UTC).replace(microsecond=0)
        return start + datetime.timedelta(days=LIFETIMES[role])

    def _version(self, role: str) -> int:
        return self.load(role).signed.version if (self.metadata / "timestamp.json").exists() else 0

    # -- reading ------------------------------------------------------------------------------------------------------

    def root(self) -> Root:
        """The newest root metadata. Raises `PublishError`."""
        signed = self.load("root").signed
        assert isinstance(signed, Root)
        return signed

    def load(self, role: str) -> Metadata[Any]:
        """The present metadata of a role, as the timestamp names it. Raises `PublishError`."""
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


def newest(directory: Path, role: str) -> Path:
    """The file N.ROLE.json with the highest N. Raises `PublishError`."""
    numbers = [int(path.name.split(".")[0]) for path in directory.glob(f"*.{role}.json") if path.name[0].isdigit()]
    if not numbers:
        raise PublishError(f"{directory} holds no {role} metadata; run `appliance-release init` first")
    return directory / f"{max(numbers)}.{role}.json"


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file so that whoever reads it, also after a power cut, sees the old or the new one whole."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


__all__ = [
    "CUSTOM_KEY", "SIGNED_AT", "ArtifactError", "Description", "Downgrade", "PublishError", "Published", "Repository",
    "newest", "releases", "write_whole",
]  # fmt: skip
