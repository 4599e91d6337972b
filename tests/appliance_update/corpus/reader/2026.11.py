"""What a release says of itself: the custom field of its UKI in the signed targets metadata.

Forward-tolerant for ever: unknown fields are ignored, everything new is optional, and `min_reader` names the oldest
updater that can apply the release. Every format that was ever published stays readable (tests/appliance_update/corpus).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from appliance_update.device import verity_identity
from appliance_update.files import Unreadable, convert
from appliance_update.layout import Layout, Role, compiled

READER = 1
"""What this updater can apply: releases whose `min_reader` is not higher."""

CUSTOM_KEY = "appliance_release"


class Unsuitable(ValueError):
    """A release that is readable, or not even that, and not for this device; the message says why."""


@dataclass(frozen=True)
class Artifact:
    """One file of a release, as the signed metadata describes it.

    `length` and `sha256` are those of the file served; `content_length` and `content_sha256` those of the bytes that
    end up on the device (decompressed). `uuid` is the partition's, 32 hex digits, empty for the UKI.
    """

    role: str
    target: str
    length: int
    sha256: str
    content_length: int
    content_sha256: str
    uuid: str = ""


@dataclass(frozen=True)
class Release:
    """One version of the system, verified and checked against the layout."""

    version: str
    root_hash: str
    artifacts: tuple[Artifact, ...]
    flavour: str = ""
    security_epoch: int = 0
    published_at: float = 0.0
    notes: str = ""

    def artifact(self, role: Role) -> Artifact:
        """The artifact of one role; `admit` made sure that there is exactly one."""
        return next(artifact for artifact in self.artifacts if artifact.role == role.value)

    @property
    def download_size(self) -> int:
        """Bytes to fetch."""
        return sum(artifact.length for artifact in self.artifacts)


@dataclass(frozen=True)
class WrittenArtifact:
    """An artifact as published: where it lies and what is in it."""

    role: str
    target: str
    content_length: int
    content_sha256: str
    uuid: str = ""


@dataclass(frozen=True)
class WrittenRelease:
    """A release as published. Only what every format had is required here."""

    version: str
    device_classes: tuple[str, ...]
    root_hash: str
    artifacts: tuple[WrittenArtifact, ...]
    format: int = 1
    min_reader: int = 1
    flavour: str = ""
    security_epoch: int = 0
    published_at: float = 0.0
    notes: str = ""


@dataclass(frozen=True)
class SignedFile:
    """Length (bytes) and SHA-256 of a target, from the signed metadata itself."""

    length: int
    sha256: str


HEX64 = re.compile(r"[0-9a-f]{64}")


def version_key(version: str) -> tuple[int, ...]:
    """Order of versions YYYY.MM.N: by number, part by part. Raises `ValueError` for anything else."""
    return tuple(int(part) for part in version.split("."))


def admit(custom: Any, files: dict[str, SignedFile], layout: Layout, device_class: str, flavour: str) -> Release:
    """Make a `Release` of a published description, if this device can take it.

    `files` are all signed targets by path. Raises `Unsuitable` with the reason; nothing else.
    """
    if not isinstance(custom, dict):
        raise Unsuitable("its description is not an object")
    reader = custom.get("min_reader", 1)
    if not isinstance(reader, int) or isinstance(reader, bool) or reader > READER:
        raise Unsuitable(
            f"it needs reader {reader!r:.40}, this updater is reader {READER}: install a stepping stone first"
        )
    try:
        written = convert(custom, WrittenRelease, "its description")
    except Unreadable as error:
        raise Unsuitable(str(error)[:300]) from error
    if not layout.valid_version(written.version):
        raise Unsuitable(f"its version {written.version[:40]!r} has not the form of {layout.image.id}'s versions")
    if device_class not in written.device_classes:
        raise Unsuitable(f"it is for {', '.join(written.device_classes)[:100] or 'nothing'}, not for a {device_class}")
    if written.flavour and written.flavour != flavour:
        raise Unsuitable(f"it is of flavour {written.flavour[:40]!r}, this system is {flavour!r}")
    if not HEX64.fullmatch(written.root_hash):
        raise Unsuitable("its root hash is not 64 hexadecimal digits")
    artifacts = tuple(_artifact(role, written, files, layout) for role in (Role.VERITY, Role.DATA, Role.UKI))
    return Release(
        written.version,
        written.root_hash,
        artifacts,
        flavour,
        written.security_epoch,
        written.published_at,
        written.notes,
    )


def _artifact(role: Role, written: WrittenRelease, files: dict[str, SignedFile], layout: Layout) -> Artifact:
    own = [artifact for artifact in written.artifacts if artifact.role == role.value]
    if len(own) != 1:
        raise Unsuitable(f"it has {len(own)} {role.value} artifacts, one is needed")
    artifact = own[0]
    signed = files.get(artifact.target)
    if signed is None:
        raise Unsuitable(f"its {role.value} artifact {artifact.target[:120]!r} is not among the signed files")
    match = compiled(layout.release.of(role)).fullmatch(artifact.target.rpartition("/")[2])
    if match is None or match["version"] != written.version:
        raise Unsuitable(f"its {role.value} artifact {artifact.target[:120]!r} is not named for {written.version}")
    if not HEX64.fullmatch(artifact.content_sha256) or artifact.content_length <= 0:
        raise Unsuitable(f"its {role.value} artifact does not say what is in it")
    uuid = match.groupdict().get("uuid") or ""
    if role is not Role.UKI:
        data, verity = verity_identity(written.root_hash)
        if uuid != (data if role is Role.DATA else verity).hex:
            raise Unsuitable(f"its {role.value} artifact {uuid} does not belong to its root hash")
        slot_size = layout.partition[layout.number(role, "a") - 1].size
        if artifact.content_length > slot_size:
            raise Unsuitable(f"its {role.value} has {artifact.content_length} bytes, the slot has {slot_size}")
    return Artifact(
        role.value,
        artifact.target,
        signed.length,
        signed.sha256,
        artifact.content_length,
        artifact.content_sha256,
        uuid,
    )


def staged_name(artifact: Artifact, version: str, layout: Layout) -> str:
    """The file name under which sysupdate finds the artifact in the staging directory."""
    pattern = layout.staged.of(Role(artifact.role))
    return pattern.replace("@v", version).replace("@u", artifact.uuid)
