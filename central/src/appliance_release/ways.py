"""Whether every device in the field can still reach the newest release, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from appliance_release.artifacts import checked_version
from appliance_release.releases import Former, Published


@dataclass(frozen=True)
class Stranded:
    """A version from which the newest release cannot be reached, and why the last step is missing."""

    version: str
    newest: str
    reason: str

    def __str__(self) -> str:
        return f"From {self.version} there is no way to {self.newest}: {self.reason}"


def stranded(published: list[Published], gone: list[Former]) -> list[Stranded]:
    """The versions, published or revoked, whose devices would never get the newest release of their class."""
    found = []
    classes = {name for release in published for name in release.device_classes}
    for name in sorted(classes):
        own = [release for release in published if name in release.device_classes]
        for flavour in sorted({release.flavour for release in own}):
            offered = [release for release in own if release.flavour in ("", flavour)]
            left = [item for item in gone if name in item.device_classes and item.flavour in ("", flavour)]
            found += _stranded(offered, left)
    return list(dict.fromkeys(found))


def _stranded(offered: list[Published], gone: list[Former]) -> list[Stranded]:
    withdrawn = {version for release in offered if release.downgrade for version in release.downgrade.from_versions}
    standing = [release for release in offered if release.version not in withdrawn]
    if not standing:
        return []
    goal = max(standing, key=lambda release: checked_version(release.version))
    reaching = {goal.version}
    places: list[Published | Former] = [*offered, *gone]
    while more := {
        place.version
        for place in places
        if place.version not in reaching
        and any(_leads(place, step, withdrawn) for step in offered if step.version in reaching)
    }:
        reaching |= more
    lost = [place for place in places if place.version not in reaching]
    lost.sort(key=lambda place: checked_version(place.version))
    above = checked_version(goal.version)
    return [
        Stranded(place.version, goal.version, _missing(place, goal))
        for place in lost
        if checked_version(place.version) < above or place.version in withdrawn
    ]


def _leads(place: Published | Former, step: Published, withdrawn: set[str]) -> bool:
    """Whether a device on `place` takes `step` next: the updater's own rules, cohorts and dates left out."""
    if step.security_epoch < place.security_epoch or step.min_reader > place.reader:
        return False
    if checked_version(step.version) < checked_version(place.version):
        return step.downgrade is not None and place.version in step.downgrade.from_versions
    proven = not step.from_versions or place.version in step.from_versions
    return proven and step.version not in withdrawn


def _missing(place: Published | Former, goal: Published) -> str:
    if checked_version(goal.version) < checked_version(place.version):
        return "it is lower; publish a higher version, or a downgrade (--downgrade-from, --downgrade-until)"
    if goal.security_epoch < place.security_epoch:
        return f"its security epoch {goal.security_epoch} is lower than {place.security_epoch}"
    if goal.min_reader > place.reader:
        return (
            f"it needs reader {goal.min_reader}, the updater there is reader {place.reader}. Publish a stepping stone "
            f"first: --stepping-stone --min-reader {place.reader} --reader {goal.min_reader}"
        )
    return f"it is not proven from there. Test that update and add --from-version {place.version}, or a stepping stone"
