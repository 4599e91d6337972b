"""Which device is it? Addresses change, so identity is evidence: each piece adds to or takes from a score.

A MAC address that a manufacturer gave is the strongest single piece; a randomised one is only good while it lasts. A
host key says the same machine behind another card, unless the machines are clones of one image, which a different
name gives away. What reaches `SAME` is one device.
"""

from __future__ import annotations

from appliance_protocol.inventory import DeviceClass
from network_scanner.addresses import is_local
from network_scanner.asset import Asset
from network_scanner.facts import NAME_KINDS, Fact, FactKind

SAME = 60
"""Score from which two sets of evidence are one device."""
QUIET = 180.0
"""Seconds: two addresses that were both seen within this time were there together."""

WEIGHTS: dict[FactKind, int] = {
    FactKind.SSH_KEY: 80, FactKind.TLS_KEY: 50, FactKind.DHCP_CLIENT_ID: 70, FactKind.SSDP_ID: 65, FactKind.WSD_ID: 65,
    FactKind.MDNS_ID: 50,
}
"""What sharing one value of a kind is worth."""
SAME_NAME = 35
OTHER_NAME = -60
TOGETHER = -30
"""Two made-up addresses at the same time are rather two devices."""
SUCCESSION = 30
"""A made-up address that appears when the other one has gone."""
VENDORS = -25
"""Two cards with different burnt-in addresses and no name in common."""


def identity_facts(facts: list[Fact]) -> list[Fact]:
    """The facts that can tell one device from another."""
    return [fact for fact in facts if fact.kind in WEIGHTS or fact.kind in NAME_KINDS]


def names(asset: Asset) -> set[str]:
    """Every name of a device, without domain and case; those that merely spell its address are left out."""
    found = set()
    for kind in NAME_KINDS:
        if kind is not FactKind.MDNS_INSTANCE:
            found |= {value.lower().split(".")[0] for value in asset.values(kind)}
    return {name for name in found if not _meaningless(name)}


def _meaningless(name: str) -> bool:
    digits = sum(letter.isdigit() for letter in name)
    generic = name in {"localhost", "android", "iphone", "ipad", "unknown", "espressif", "linux", "debian", "ubuntu"}
    return len(name) < 3 or generic or digits > len(name) * 0.7


def score(one: Asset, other: Asset, now: float) -> int:
    """How sure it is that two devices are one. Symmetrical; `now` in seconds since the epoch."""
    total = sum(
        weight for kind, weight in WEIGHTS.items() if set(one.values(kind)) & set(other.values(kind))
    )
    ours, theirs = names(one), names(other)
    if ours & theirs:
        total += SAME_NAME
    elif ours and theirs:
        total += OTHER_NAME
    made_up = all(map(is_local, one.macs)) or all(map(is_local, other.macs))
    together = _last(one) > now - QUIET and _last(other) > now - QUIET and _overlap(one, other)
    if made_up:
        total += TOGETHER if together else SUCCESSION if ours & theirs else 0
    elif not ours & theirs:
        total += VENDORS
    classes = {one.device_class, other.device_class} - {DeviceClass.UNKNOWN}
    if DeviceClass.MEDICAL in classes and len(classes) > 1:
        # Never let a medical device disappear into something that may be scanned.
        total += OTHER_NAME
    return total


def _last(asset: Asset) -> float:
    return max((seen.last for seen in asset.macs.values()), default=asset.last_seen)


def _overlap(one: Asset, other: Asset) -> bool:
    """Whether each was seen after the other had appeared."""
    first = max(one.first_seen, other.first_seen)
    return _last(one) > first and _last(other) > first


def find_twin(asset: Asset, candidates: list[Asset], now: float) -> Asset | None:
    """The device that `asset` really is, if any of `candidates` reaches `SAME`."""
    others = [other for other in candidates if other is not asset]
    scored = [(score(asset, other, now), -other.first_seen, other.id, other) for other in others]
    best = max(scored, default=None, key=lambda item: item[:3])
    return best[3] if best is not None and best[0] >= SAME else None


def merge(keep: Asset, gone: Asset) -> None:
    """Move everything `gone` knows to `keep`. A person's word on either survives; the stricter policy wins."""
    for address, seen in gone.macs.items():
        keep.note(keep.macs, address, seen.last)
        keep.macs[address].first = min(keep.macs[address].first, seen.first)
    for address, seen in gone.ips.items():
        keep.note(keep.ips, address, seen.last)
    for fact, seen in gone.facts.items():
        keep.learn([fact], seen.last)
    keep.first_seen = min(keep.first_seen, gone.first_seen)
    keep.last_seen = max(keep.last_seen, gone.last_seen)
    keep.missed = min(keep.missed, gone.missed)
    if gone.class_locked and not keep.class_locked:
        keep.device_class, keep.class_locked, keep.confidence = gone.device_class, True, 1.0
        keep.reasons = gone.reasons
    order = ["standard", "limited", "excluded"]
    by_person = gone.policy_by == "person" and keep.policy_by != "person"
    if keep.policy_by == gone.policy_by or by_person:
        stricter = max((keep.policy, gone.policy), key=order.index)
        keep.policy = gone.policy if by_person else stricter
        keep.policy_by = "person" if "person" in (keep.policy_by, gone.policy_by) else keep.policy_by
