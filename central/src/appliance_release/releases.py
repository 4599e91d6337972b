"""What a release says of itself: written by us, read back by us, and by every updater there ever was.

docs/update-protocol.md has the fields. The updater shares no code with this; tests hold the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]

from appliance_release.artifacts import Artifact, Measured, checked_version

CUSTOM_KEY = "appliance_release"

FORMER_KEY = "x-appliance-former"
"""Field of the targets metadata: versions that were revoked. Devices that run them still need a way on."""

READER = 1
"""The reader level of the updater that is built from the same source as this publisher."""


class PublishError(ValueError):
    """Something that must not be published, or a repository that cannot be read; the message says what and why."""


@dataclass(frozen=True)
class Downgrade:
    """Permission for devices on `from_versions` to go back to this release, until a time (seconds since the epoch)."""

    from_versions: tuple[str, ...]
    until: float


@dataclass(frozen=True)
class Description:
    """What a release says of itself beyond its files.

    `reader` is the level of the updater inside the build, 0 for this publisher's own. No `from_versions` means that
    the update was proven from every version. `cohort` is the percentage of devices it is offered to, by `salt`.
    """

    version: str
    device_classes: tuple[str, ...] = ("t640",)
    min_reader: int = 1
    security_epoch: int = 0
    notes: str = ""
    reader: int = 0
    stepping_stone: bool = False
    from_versions: tuple[str, ...] = ()
    cohort: int = 100
    salt: str = ""
    downgrade: Downgrade | None = None


@dataclass(frozen=True)
class Published:
    """One release in the repository.

    `files` are the paths of its targets, its chunk `indexes` among them; `target` carries the description.
    """

    version: str
    device_classes: tuple[str, ...]
    flavour: str
    root_hash: str
    length: int
    published_at: float
    min_reader: int = 1
    reader: int = READER
    security_epoch: int = 0
    stepping_stone: bool = False
    from_versions: tuple[str, ...] = ()
    cohort: int = 100
    downgrade: Downgrade | None = None
    indexes: tuple[str, ...] = ()
    notes: str = ""
    target: str = ""
    files: tuple[str, ...] = ()

    @property
    def chunked(self) -> bool:
        """Whether devices can fetch it by chunks."""
        return bool(self.indexes)

    def document(self) -> dict[str, Any]:
        """As `list --json` shows it."""
        shown = {key: value for key, value in vars(self).items() if key not in ("target", "files", "indexes")}
        shown["chunked"] = self.chunked
        if self.downgrade:
            shown["downgrade"] = {"from": list(self.downgrade.from_versions), "until": self.downgrade.until}
        return shown | {"device_classes": list(self.device_classes), "from_versions": list(self.from_versions)}


@dataclass(frozen=True)
class Former:
    """A version that was published once and taken out: what a device on it can read, and where it stood."""

    version: str
    device_classes: tuple[str, ...]
    flavour: str = ""
    reader: int = READER
    security_epoch: int = 0
    reason: str = ""


def checked(description: Description) -> Description:
    """With its defaults filled in. Raises `PublishError` or `ArtifactError` for what contradicts itself."""
    number = checked_version(description.version)
    reader = description.reader or max(READER, description.min_reader)
    if reader < description.min_reader:
        raise PublishError(
            f"{description.version} needs reader {description.min_reader} and carries reader {reader}: "
            "it could not read its own description"
        )
    if not 0 <= description.cohort <= 100:
        raise PublishError(f"A cohort is a percentage from 0 to 100, not {description.cohort}")
    for version in description.from_versions:
        if checked_version(version) >= number:
            raise PublishError(f"{version} is not lower than {description.version}: nobody updates from it")
    if description.downgrade:
        for version in description.downgrade.from_versions:
            if checked_version(version) <= number:
                raise PublishError(f"From {version} to {description.version} is no downgrade")
    return replace(description, reader=reader, salt=description.salt or description.version)


def written(
    description: Description, root_hash: str, flavour: str, artifacts: list[dict[str, Any]], now: float
) -> dict[str, Any]:
    """The description as it is signed. What has its default is left out; canonical JSON knows no fractions."""
    custom: dict[str, Any] = {
        "format": 1,
        "version": description.version,
        "device_classes": list(description.device_classes),
        "min_reader": description.min_reader,
        "reader": description.reader,
        "security_epoch": description.security_epoch,
        "flavour": flavour,
        "root_hash": root_hash,
        "artifacts": artifacts,
        "published_at": int(now),
        "notes": description.notes,
    }
    if description.stepping_stone:
        custom["stepping_stone"] = True
    if description.from_versions:
        custom["from_versions"] = sorted(description.from_versions, key=checked_version)
    if description.cohort < 100:
        custom["cohort"] = {"percent": description.cohort, "salt": description.salt}
    if description.downgrade:
        custom["downgrade"] = written_downgrade(description.downgrade)
    return custom


def written_downgrade(downgrade: Downgrade) -> dict[str, Any]:
    """The permission as it is signed."""
    return {"from": sorted(downgrade.from_versions, key=checked_version), "until": int(downgrade.until)}


def written_artifact(artifact: Artifact, path: str, measured: Measured) -> dict[str, Any]:
    """One artifact as it is signed."""
    return {
        "role": artifact.role,
        "target": path,
        "uuid": artifact.uuid,
        "length": measured.length,
        "sha256": measured.sha256,
        "content_length": measured.content_length,
        "content_sha256": measured.content_sha256,
    }


def releases(targets: Targets) -> list[Published]:
    """The releases that targets metadata describes. Raises `PublishError` for one that this publisher cannot read."""
    found = []
    for path, target in targets.targets.items():
        custom = (target.custom or {}).get(CUSTOM_KEY)
        if custom is None:
            continue
        try:
            found.append(_read(path, custom, targets.targets))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PublishError(f"The release at {path} cannot be read: {error!r}") from error
    return found


def _read(path: str, custom: dict[str, Any], targets: dict[str, TargetFile]) -> Published:
    artifacts = [artifact["target"] for artifact in custom["artifacts"]]
    indexes = [artifact["chunks"]["index"] for artifact in custom["artifacts"] if artifact.get("chunks")]
    downgrade = custom.get("downgrade")
    min_reader = int(custom.get("min_reader", 1))
    return Published(
        version=custom["version"],
        device_classes=tuple(custom["device_classes"]),
        flavour=custom.get("flavour", ""),
        root_hash=custom["root_hash"],
        length=sum(targets[name].length for name in artifacts),
        published_at=float(custom.get("published_at", 0.0)),
        min_reader=min_reader,
        reader=int(custom.get("reader", 0)) or max(READER, min_reader),
        security_epoch=int(custom.get("security_epoch", 0)),
        stepping_stone=bool(custom.get("stepping_stone", False)),
        from_versions=tuple(custom.get("from_versions", ())),
        cohort=int(custom["cohort"]["percent"]) if custom.get("cohort") else 100,
        downgrade=Downgrade(tuple(downgrade["from"]), float(downgrade["until"])) if downgrade else None,
        indexes=tuple(indexes),
        notes=custom.get("notes", ""),
        target=path,
        files=(*artifacts, *indexes),
    )


def former(targets: Targets) -> list[Former]:
    """The versions that were revoked. Raises `PublishError` for a list that this publisher cannot read."""
    try:
        return [
            Former(
                entry["version"],
                tuple(entry["device_classes"]),
                entry.get("flavour", ""),
                int(entry.get("reader", READER)),
                int(entry.get("security_epoch", 0)),
                entry.get("reason", ""),
            )
            for entry in targets.unrecognized_fields.get(FORMER_KEY, [])
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PublishError(f"The list of revoked versions cannot be read: {error!r}") from error


def add_former(targets: Targets, release: Published, reason: str) -> None:
    """Remember a version that is taken out."""
    entry: dict[str, Any] = {
        "version": release.version,
        "device_classes": list(release.device_classes),
        "flavour": release.flavour,
        "reader": release.reader,
        "security_epoch": release.security_epoch,
        "reason": reason,
    }
    targets.unrecognized_fields[FORMER_KEY] = [*targets.unrecognized_fields.get(FORMER_KEY, []), entry]
