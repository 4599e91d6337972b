"""A TUF repository that can be wrong in any way: every role's keys, versions, dates and signatures at hand."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

TOP = ("root", "targets", "snapshot", "timestamp")


def days(count: float) -> datetime.datetime:
    """A time that many days from now."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=count)


def new_key() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


@dataclass
class Site:
    """DIRECTORY/metadata and DIRECTORY/targets, with consistent snapshots, of one key a role."""

    directory: Path
    signers: dict[str, list[CryptoSigner]] = field(default_factory=dict)
    signed: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.directory / "metadata").mkdir(parents=True)
        (self.directory / "targets").mkdir()
        self.signers = {role: [new_key()] for role in TOP}
        root = Root(consistent_snapshot=True, expires=days(300))
        for role, own in self.signers.items():
            root.add_key(own[0].public_key, role)
        self.signed = {
            "root": root,
            "targets": Targets(expires=days(300)),
            "snapshot": Snapshot(expires=days(300)),
            "timestamp": Timestamp(expires=days(300)),
        }
        for role in TOP:
            self.write(role)

    @property
    def metadata(self) -> Path:
        return self.directory / "metadata"

    @property
    def trusted(self) -> Path:
        """The first root."""
        return self.metadata / "1.root.json"

    @property
    def root(self) -> Root:
        return self.signed["root"]

    @property
    def targets(self) -> Targets:
        return self.signed["targets"]

    def bump(self, *roles: str) -> None:
        """The next version of these roles, named by those above them, in the order of publication."""
        for role in ("root", *[name for name in self.signed if name not in TOP], "targets", "snapshot", "timestamp"):
            if role in roles:
                self.signed[role].version += 1
                self.write(role)

    def bump_all(self) -> None:
        self.bump(*self.signed)

    def write(self, role: str, *, signers: list[CryptoSigner] | None = None, name: str = "") -> Path:
        """Sign a role's metadata as it is and put it where clients look for it."""
        signed = self.signed[role]
        if role == "snapshot":
            signed.meta = {
                f"{other}.json": MetaFile(self.signed[other].version)
                for other in self.signed
                if other not in ("root", "snapshot", "timestamp")
            }
        if role == "timestamp":
            signed.snapshot_meta = MetaFile(self.signed["snapshot"].version)
        metadata = Metadata(signed)
        for signer in self.signers[role] if signers is None else signers:
            metadata.sign(signer, append=True)
        quoted = quote(role, safe="")
        path = self.metadata / (
            name or (f"{quoted}.json" if role == "timestamp" else f"{signed.version}.{quoted}.json")
        )
        path.write_bytes(metadata.to_bytes())
        return path

    def add_target(self, path: str, content: bytes, role: str = "targets", *, serve: bytes | None = None) -> TargetFile:
        """Name a target in a role (sign it with `bump`), and serve `serve` or its content for it."""
        target = TargetFile.from_data(path, content, ["sha256"])
        self.signed[role].targets[path] = target
        directory, slash, name = path.rpartition("/")
        file = self.directory / "targets" / f"{directory}{slash}{target.hashes['sha256']}.{name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if serve is None else serve)
        return target

    def give_role(self, role: str, count: int = 1, threshold: int = 1) -> list[CryptoSigner]:
        """New keys for a role, in the root that is to be signed next; the old ones."""
        old = self.signers[role]
        for signer in old:
            if signer.public_key.keyid in self.root.roles[role].keyids:
                self.root.revoke_key(signer.public_key.keyid, role)
        self.signers[role] = [new_key() for _ in range(count)]
        for signer in self.signers[role]:
            self.root.add_key(signer.public_key, role)
        self.root.roles[role].threshold = threshold
        return old

    def rotate_root(self, count: int = 1, threshold: int = 1) -> None:
        """The next root version with new root keys, signed by the old and the new ones."""
        old = self.give_role("root", count, threshold)
        self.root.version += 1
        self.write("root", signers=[*old, *self.signers["root"]])

    def rotate(self, role: str, count: int = 1, threshold: int = 1) -> None:
        """New keys for another role, and everything signed anew."""
        self.give_role(role, count, threshold)
        self.bump_all()
