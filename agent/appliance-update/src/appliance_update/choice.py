"""Which release to install next: a pure function of what is offered and what this device is.

A release is a step when every rule lets this device go there directly; of the steps the one is taken from which the
highest version can be reached, and of equal ones the highest. So a device that slept through twelve releases walks
over the stepping stones in their order, and never into a dead end. docs/update-protocol.md has the rules in words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from appliance_update.release import READER, Beyond, Cohort, Release, version_key


@dataclass(frozen=True)
class Situation:
    """What the choice depends on beside the catalogue.

    `now` is the trusted time in seconds since the epoch; `put_away` maps versions that failed here to the reason.
    """

    running: str
    now: float
    security_epoch: int = 0
    device_id: str = ""
    put_away: Mapping[str, str] = field(default_factory=dict)
    reader: int = READER


@dataclass(frozen=True)
class Choice:
    """The release to install; else the version that is offered in vain because it failed here, if any; and why."""

    release: Release | None = None
    put_away: str = ""
    sentence: str = ""


def bucket(device_id: str, salt: str) -> int:
    """Where a device stands in a rollout, 0 to 99: SHA-256 of `device_id` + `salt` as a number, modulo 100.

    A device without an id stands last. The id never leaves the device.
    """
    if not device_id:
        return 99
    return int.from_bytes(hashlib.sha256((device_id + salt).encode()).digest(), "big") % 100


def in_cohort(cohort: Cohort | None, device_id: str) -> bool:
    """Whether a release is offered to this device by now; without a cohort it is offered to all."""
    return cohort is None or bucket(device_id, cohort.salt) < cohort.percent


def choose(
    offers: Iterable[Release],
    beyond: Iterable[Beyond],
    here: Situation,
    unsuitable: Mapping[str, str] | None = None,
) -> Choice:
    """The next release for a device, or why there is none.

    `beyond` are releases for it that it cannot read yet; `unsuitable` maps what it cannot use at all to the reason.
    """
    offered = tuple(offers)
    ahead = tuple(beyond)
    withdrawn = {version for offer in offered if offer.downgrade for version in offer.downgrade.from_versions}
    withdrawn |= {version for offer in ahead for version in offer.withdraws}
    newer = [offer for offer in offered if version_key(offer.version) > version_key(here.running)]
    reasons = {offer.version: _reason(offer, here, withdrawn) for offer in newer}
    allowed = [offer for offer in newer if not reasons[offer.version]]
    steps = [offer for offer in allowed if _proven(offer.from_versions, here.running)]
    if steps:
        reach = _reach(allowed, ahead, here.reader)
        return Choice(max(steps, key=lambda step: (reach[step.version], version_key(step.version))))
    back = [offer for offer in offered if _leads_back(offer, here)]
    if back:
        return Choice(max(back, key=lambda offer: version_key(offer.version)))
    chosen = _why_not(newer, reasons, ahead, here)
    if chosen is None and unsuitable:
        path, reason = sorted(unsuitable.items())[-1]
        return Choice(sentence=f"{here.running} is up to date; {path.rpartition('/')[2]} is offered, but {reason}")
    return chosen or Choice(sentence=f"{here.running} is up to date")


def _reason(offer: Release, here: Situation, withdrawn: set[str]) -> str:
    """Why a newer release is no step on any way of this device; empty when it may be one."""
    if offer.version in here.put_away:
        return f"it failed here: {here.put_away[offer.version]}"
    if offer.version in withdrawn:
        return "it is withdrawn: a downgrade leads away from it"
    if offer.security_epoch < here.security_epoch:
        return (
            f"its security epoch {offer.security_epoch} is lower than {here.security_epoch}, which was committed here"
        )
    if not in_cohort(offer.cohort, here.device_id):
        return f"its rollout has not come to this device ({offer.cohort.percent if offer.cohort else 100} % of all)"
    return ""


def _leads_back(offer: Release, here: Situation) -> bool:
    """Whether a signed, dated downgrade allows this lower release; the security epoch is no matter of date."""
    return (
        offer.downgrade is not None
        and version_key(offer.version) < version_key(here.running)
        and here.running in offer.downgrade.from_versions
        and here.now <= offer.downgrade.until
        and offer.security_epoch >= here.security_epoch
        and offer.version not in here.put_away
        and in_cohort(offer.cohort, here.device_id)
    )


def _proven(from_versions: tuple[str, ...], version: str) -> bool:
    return not from_versions or version in from_versions


def _reach(allowed: list[Release], beyond: tuple[Beyond, ...], reader: int) -> dict[str, tuple[int, ...]]:
    """The highest version that can be reached from each allowed release, step by step, itself included."""
    everything: tuple[Release | Beyond, ...] = (*allowed, *beyond)
    reach: dict[str, tuple[int, ...]] = {}
    for release in sorted(allowed, key=lambda item: version_key(item.version), reverse=True):
        own, level = version_key(release.version), _reader(release, reader)
        ahead = [
            reach.get(other.version, version_key(other.version))
            for other in everything
            if version_key(other.version) > own
            and other.min_reader <= level
            and (not isinstance(other, Release) or other.security_epoch >= release.security_epoch)
            and _proven(other.from_versions, release.version)
        ]
        reach[release.version] = max([own, *ahead])
    return reach


def _reader(release: Release, reader: int) -> float:
    """The reader level of the updater inside a release: what it says, else that a stepping stone reads all."""
    if release.reader:
        return release.reader
    return float("inf") if release.stepping_stone else max(reader, release.min_reader)


def _why_not(
    newer: list[Release], reasons: dict[str, str], beyond: tuple[Beyond, ...], here: Situation
) -> Choice | None:
    """The sentence for the highest version that is offered in vain; None when there is none."""
    ahead = [offer for offer in beyond if version_key(offer.version) > version_key(here.running)]
    if newer:
        version = max((offer.version for offer in newer), key=version_key)
        if version in here.put_away:
            return Choice(None, version, f"{version} is offered but failed here: {here.put_away[version]}")
        reason = reasons[version] or f"it was not proven from {here.running}, and no stepping stone leads there"
        return Choice(None, "", f"{here.running} stays; {version} is offered, but {reason}")
    if ahead:
        last = max(ahead, key=lambda offer: version_key(offer.version))
        return Choice(
            sentence=f"{here.running} stays; {last.version} is offered, but it needs reader {last.min_reader}, this "
            f"updater is reader {here.reader}, and no stepping stone is offered"
        )
    return None
