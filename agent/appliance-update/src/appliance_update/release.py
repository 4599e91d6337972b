"""What a release says of itself: the custom field of its UKI in the signed targets metadata.

Forward-tolerant for ever: unknown fields are ignored, everything new is optional, and `min_reader` names the oldest
updater that can apply the release. Every format that was ever published stays readable (tests/appliance_update/corpus).
docs/update-protocol.md has the fields; `choice` picks one of the releases that are admitted here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from appliance_update.device import verity_identity
from appliance_update.files import Unreadable, convert
from appliance_update.layout import Layout, Role, compiled

READER = 1
"""What this updater can apply: releases whose `min_reader` is not higher."""

CUSTOM_KEY = "appliance_release"

DESCRIPTION_LIMIT = 256 * 1024
"""Bytes (as JSON) of one release's description; a larger one is refused before it is looked into."""

CHUNK_FORMATS = ("caibx",)
"""Formats of chunk index that this updater reads; of any other the whole artifact is fetched."""


class Unsuitable(ValueError):
    """A release that is readable, or not even that, and not for this device; the message says why."""


class NeedsReader(Unsuitable):
    """A release for this device, by an updater newer than this one: a stepping stone has to be installed first."""

    def __init__(self, message: str, beyond: Beyond) -> None:
        super().__init__(message)
        self.beyond = beyond


@dataclass(frozen=True)
class Beyond:
    """What is known of a release that this updater cannot apply: enough to find the way to it.

    `withdraws` are the versions that a downgrade to it leads away from.
    """

    version: str
    min_reader: int
    from_versions: tuple[str, ...] = ()
    withdraws: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chunks:
    """A chunk index beside an artifact: a way to fetch less of it, never the only one.

    `index` is a signed target of `length` bytes with `sha256`; the chunks lie below `store`, a path relative to the
    directory of targets. `format` is one of `CHUNK_FORMATS`.
    """

    index: str
    length: int
    sha256: str
    store: str
    format: str = "caibx"


@dataclass(frozen=True)
class Cohort:
    """The share of devices that a release is offered to for now; see `choice.in_cohort`."""

    percent: int
    salt: str = ""


class Downgrade(msgspec.Struct, frozen=True, rename={"from_versions": "from"}):
    """Permission to go back to this release from some higher versions, until a time (seconds since the epoch)."""

    from_versions: tuple[str, ...]
    until: float


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
    chunks: Chunks | None = None


@dataclass(frozen=True)
class Release:
    """One version of the system, verified and checked against the layout.

    `from_versions` are those that the update was proven from (none: all), `reader` the level of the updater inside it
    (0: it does not say); a `stepping_stone` reads whatever was published after it.
    """

    version: str
    root_hash: str
    artifacts: tuple[Artifact, ...]
    flavour: str = ""
    security_epoch: int = 0
    published_at: float = 0.0
    notes: str = ""
    min_reader: int = 1
    reader: int = 0
    stepping_stone: bool = False
    from_versions: tuple[str, ...] = ()
    cohort: Cohort | None = None
    downgrade: Downgrade | None = None
    recovery: Artifact | None = None
    """The recovery that travels with it; none of the `artifacts`, since an update does without it (`recovery.py`)."""

    def artifact(self, role: Role) -> Artifact:
        """The artifact of one role; `admit` made sure that there is exactly one."""
        return next(artifact for artifact in self.artifacts if artifact.role == role.value)

    @property
    def download_size(self) -> int:
        """Bytes to fetch."""
        return sum(artifact.length for artifact in self.artifacts)


@dataclass(frozen=True)
class WrittenChunks:
    """A chunk index as published."""

    index: str
    store: str
    format: str = "caibx"


@dataclass(frozen=True)
class WrittenArtifact:
    """An artifact as published: where it lies and what is in it."""

    role: str
    target: str
    content_length: int
    content_sha256: str
    uuid: str = ""
    chunks: WrittenChunks | None = None


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
    reader: int = 0
    stepping_stone: bool = False
    from_versions: tuple[str, ...] = ()
    cohort: Cohort | None = None
    downgrade: Downgrade | None = None


@dataclass(frozen=True)
class SignedFile:
    """Length (bytes) and SHA-256 of a target, from the signed metadata itself."""

    length: int
    sha256: str


NEEDED = frozenset(role.value for role in (Role.VERITY, Role.DATA, Role.UKI))
"""What every release must bring, once each."""

ROLES = NEEDED | {Role.RECOVERY.value}
"""What an artifact of a release may be to this updater."""

HEX64 = re.compile(r"[0-9a-f]{64}")
STORE = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*/?")
"""A path below the directory of targets: no scheme, no leading slash, nothing to quote."""


def version_key(version: str) -> tuple[int, ...]:
    """Order of versions YYYY.MM.N: by number, part by part. Raises `ValueError` for anything else."""
    return tuple(int(part) for part in version.split("."))


def admit(custom: Any, files: dict[str, SignedFile], layout: Layout, device_class: str, flavour: str) -> Release:
    """Make a `Release` of a published description, if this device can take it.

    `files` are all signed targets by path. Raises `Unsuitable` with the reason; nothing else.
    """
    if not isinstance(custom, dict):
        raise Unsuitable("its description is not an object")
    _measured(custom)
    _readable(custom, layout, device_class, flavour)
    try:
        written = convert(_known(custom), WrittenRelease, "its description")
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
    return Release(
        version=written.version,
        root_hash=written.root_hash,
        artifacts=tuple(_artifact(role, written, files, layout) for role in (Role.VERITY, Role.DATA, Role.UKI)),
        flavour=flavour,
        security_epoch=written.security_epoch,
        published_at=written.published_at,
        notes=written.notes,
        min_reader=written.min_reader,
        reader=written.reader,
        stepping_stone=written.stepping_stone,
        from_versions=written.from_versions,
        cohort=written.cohort,
        downgrade=written.downgrade,
        recovery=_recovery(written, files, layout),
    )


def _known(custom: Any) -> Any:
    """The description without what may be left alone and has a form that this updater does not know: another year's.

    That is artifacts of unknown roles, a recovery and chunks that cannot be read.
    """
    artifacts = custom.get("artifacts") if isinstance(custom, dict) else None
    if not isinstance(artifacts, list):
        return custom
    return {**custom, "artifacts": [item for item in map(_without_strange_chunks, artifacts) if not _strange(item)]}


def _strange(item: Any) -> bool:
    """Whether an artifact is none that an update needs, and none that this updater understands."""
    role = item.get("role") if isinstance(item, dict) else None
    if not isinstance(role, str) or role in NEEDED:
        return False
    return role not in ROLES or not _convertible(item, WrittenArtifact)


def _without_strange_chunks(item: Any) -> Any:
    if not isinstance(item, dict) or item.get("chunks") is None or _convertible(item["chunks"], WrittenChunks):
        return item
    return {**item, "chunks": None}


def _convertible(value: Any, form: type) -> bool:
    try:
        convert(value, form, "")
    except Unreadable:
        return False
    return True


def _measured(custom: dict[str, Any]) -> None:
    """Refuse a description that is too large or too deep to look into."""
    try:
        size = len(msgspec.json.encode(custom))
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise Unsuitable(f"its description is not plain JSON: {error}"[:300]) from error
    if size > DESCRIPTION_LIMIT:
        raise Unsuitable(f"its description has {size} bytes, {DESCRIPTION_LIMIT} are allowed")


def _readable(custom: dict[str, Any], layout: Layout, device_class: str, flavour: str) -> None:
    """Refuse what another reader wrote, by the few fields that every format for ever keeps."""
    reader = custom.get("min_reader", 1)
    if not isinstance(reader, int) or isinstance(reader, bool):
        raise Unsuitable(f"its min_reader {reader!r:.40} is not a number")
    if reader <= READER:
        return
    message = f"it needs reader {reader}, this updater is reader {READER}: a stepping stone has to be installed first"
    version, classes = custom.get("version"), custom.get("device_classes")
    mine = isinstance(classes, list) and device_class in classes and custom.get("flavour", "") in ("", flavour)
    if not (mine and isinstance(version, str) and layout.valid_version(version)):
        raise Unsuitable(message)
    downgrade = custom.get("downgrade")
    away = downgrade.get("from") if isinstance(downgrade, dict) else None
    raise NeedsReader(message, Beyond(version, reader, _texts(custom.get("from_versions")), _texts(away)))


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


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
        _chunks(artifact.chunks, files),
    )


def _recovery(written: WrittenRelease, files: dict[str, SignedFile], layout: Layout) -> Artifact | None:
    """The recovery, when there is one that this updater can use; an odd one is no reason to refuse a release."""
    own = [artifact for artifact in written.artifacts if artifact.role == Role.RECOVERY.value]
    signed = files.get(own[0].target) if len(own) == 1 else None
    if signed is None or not layout.release.recovery:
        return None
    match = compiled(layout.release.recovery).fullmatch(own[0].target.rpartition("/")[2])
    if match is None or not layout.valid_version(match["version"]) or signed.sha256 != own[0].content_sha256:
        return None
    return Artifact(
        Role.RECOVERY.value, own[0].target, signed.length, signed.sha256, own[0].content_length, own[0].content_sha256
    )


def _chunks(written: WrittenChunks | None, files: dict[str, SignedFile]) -> Chunks | None:
    """The chunk index, when this updater can use it: it only ever saves bytes, so an odd one is left alone."""
    signed = files.get(written.index) if written else None
    if written is None or signed is None or written.format not in CHUNK_FORMATS:
        return None
    if not STORE.fullmatch(written.store) or ".." in written.store.split("/"):
        return None
    return Chunks(written.index, signed.length, signed.sha256, written.store.rstrip("/"), written.format)


def installed_chunks(custom: Any, files: dict[str, SignedFile], version: str, role: Role) -> Chunks | None:
    """The chunk index of one artifact of a version that is installed here already; None when there is none to use."""
    try:
        written = convert(_known(custom), WrittenRelease, "its description")
    except Unreadable:
        return None
    own = [artifact for artifact in written.artifacts if artifact.role == role.value]
    return _chunks(own[0].chunks, files) if written.version == version and len(own) == 1 else None


def staged_name(artifact: Artifact, version: str, layout: Layout) -> str:
    """The file name under which sysupdate finds the artifact in the staging directory."""
    pattern = layout.staged.of(Role(artifact.role))
    return pattern.replace("@v", version).replace("@u", artifact.uuid)
