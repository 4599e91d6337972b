"""All devices: observations go in, devices and events come out. In memory; `store` keeps it.

Nothing here sends anything or waits for anything, so every rule about identity, class, policy and presence can be
tested by handing in observations.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from appliance_protocol.inventory import DeviceClass, DeviceEvent, Presence, ScanPolicy
from network_scanner.addresses import is_group, is_local
from network_scanner.asset import Asset
from network_scanner.classify import classify
from network_scanner.facts import Fact, FactKind, Observation
from network_scanner.identity import find_twin, identity_facts, merge
from network_scanner.presence import presence

MAX_DEVICES = 1024
"""Devices kept; a flood of made-up addresses cannot grow the inventory beyond it."""

Vendor = Callable[[str], str]


@dataclass(frozen=True)
class Happening:
    """An event and the device it belongs to; an empty id for the network as a whole."""

    asset_id: str
    event: DeviceEvent


@dataclass
class Inventory:
    """Devices by id, with indexes by address. `changed` and `removed` are what the store has yet to write."""

    vendor: Vendor
    assets: dict[str, Asset] = field(default_factory=dict)
    happenings: list[Happening] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    _full_until: float = 0.0
    _by_mac: dict[str, str] = field(default_factory=dict)
    _by_ip: dict[str, str] = field(default_factory=dict)
    _by_fact: dict[Fact, set[str]] = field(default_factory=dict)

    def load(self, assets: Iterable[Asset]) -> None:
        """Take over stored devices."""
        for asset in assets:
            self.assets[asset.id] = asset
            self._index(asset)

    def observe(self, seen: Observation) -> Asset | None:
        """Take in one observation; returns its device, or None when it belongs to nobody we could name."""
        asset = self._owner(seen)
        if asset is None:
            return None
        self.changed.add(asset.id)
        asset.last_seen = max(asset.last_seen, seen.at)
        asset.missed = 0
        self._set_presence(asset, Presence.UP, seen.at)
        new = asset.learn(seen.facts, seen.at)
        if seen.mac:
            new += self._note_mac(asset, seen.mac, seen.at)
        if seen.ip and (seen.bound or seen.ip in asset.ips or not asset.ips):
            self._note_ip(asset, seen.ip, seen.at)
        for fact in new:
            if fact.kind is FactKind.PORT:
                self.happen(asset.id, seen.at, "new-service", f"now listens on {fact.value}")
        if new:
            self._reclassify(asset, seen.at)
            if identity_facts(new):
                asset = self._resolve_identity(asset, seen.at)
        self._index(asset)
        return asset

    def _owner(self, seen: Observation) -> Asset | None:
        if seen.mac and not is_group(seen.mac):
            known = self._by_mac.get(seen.mac)
            if known:
                return self.assets[known]
            return self._create(seen) if len(self.assets) < MAX_DEVICES or self._make_room(seen.at) else None
        known = self._by_ip.get(seen.ip) if seen.ip else None
        return self.assets[known] if known else None

    def _create(self, seen: Observation) -> Asset:
        asset = Asset(secrets.token_hex(8), seen.at, seen.at)
        self.assets[asset.id] = asset
        where = f" at {seen.ip}" if seen.ip else ""
        self.happen(asset.id, seen.at, "discovered", f"first seen as {seen.mac}{where}")
        return asset

    def _make_room(self, at: float) -> bool:
        """Forget the device that has been silent longest and about which no person has said anything."""
        if at < self._full_until:
            return False
        free = [item for item in self.assets.values() if not item.class_locked and item.policy_by != "person"
                and item.presence is not Presence.UP]
        if not free:
            # A flood of new addresses must not make us search again for each of them.
            self._full_until = at + 1.0
            return False
        self.forget(min(free, key=lambda item: item.last_seen))
        return True

    def forget(self, asset: Asset) -> None:
        """Drop a device."""
        self.assets.pop(asset.id, None)
        self.changed.discard(asset.id)
        self.removed.add(asset.id)
        for index in (self._by_mac, self._by_ip):
            for key in [key for key, value in index.items() if value == asset.id]:
                del index[key]
        for fact in asset.facts:
            self._by_fact.get(fact, set()).discard(asset.id)

    def _note_mac(self, asset: Asset, mac: str, at: float) -> list[Fact]:
        if not asset.note(asset.macs, mac, at):
            return []
        if is_local(mac):
            return asset.learn([Fact(FactKind.RANDOMISED, "yes")], at)
        vendor = self.vendor(mac)
        return asset.learn([Fact(FactKind.VENDOR, vendor)], at) if vendor else []

    def _note_ip(self, asset: Asset, ip: str, at: float) -> None:
        before = self._by_ip.get(ip)
        if before and before != asset.id and before in self.assets:
            # The address has a new owner: it no longer says anything about the old one.
            previous = self.assets[before]
            previous.ips.pop(ip, None)
            self.changed.add(before)
        self._by_ip[ip] = asset.id
        if asset.note(asset.ips, ip, at) and len(asset.ips) > 1 and ":" not in ip:
            self.happen(asset.id, at, "new-address", f"now at {ip}")

    def _resolve_identity(self, asset: Asset, at: float) -> Asset:
        sharing = {twin for fact in asset.facts for twin in self._by_fact.get(_key(fact), ()) if twin in self.assets}
        twin = find_twin(asset, [self.assets[item] for item in sharing if item != asset.id], at)
        if twin is None:
            return asset
        keep, gone = (asset, twin) if asset.first_seen < twin.first_seen else (twin, asset)
        self.forget(gone)
        merge(keep, gone)
        self.changed.add(keep.id)
        self.happen(keep.id, at, "recognised", f"the same device as {', '.join(gone.macs)}")
        for ip in keep.ips:
            self._by_ip[ip] = keep.id
        self._reclassify(keep, at)
        return keep

    def _reclassify(self, asset: Asset, at: float) -> None:
        verdict = classify(asset.facts)
        asset.fragile = verdict.fragile or (asset.device_class in (DeviceClass.MEDICAL, DeviceClass.PRINTER) and (
            asset.class_locked
        ))
        if asset.class_locked:
            return
        if verdict.device_class is not asset.device_class:
            before, asset.device_class = asset.device_class, verdict.device_class
            why = verdict.reasons[0] if verdict.reasons else ""
            self.happen(asset.id, at, "class-changed", f"{before} to {verdict.device_class}: {why}")
        asset.confidence, asset.reasons = verdict.confidence, verdict.reasons
        if verdict.medical >= 0.4:
            self._tighten(asset, at)

    def _tighten(self, asset: Asset, at: float) -> None:
        """Medical equipment is left alone unless a person has decided; the scanner itself never loosens a policy."""
        if asset.policy_by == "person" or asset.policy is not ScanPolicy.STANDARD:
            return
        asset.policy, asset.policy_by = ScanPolicy.LIMITED, "scanner"
        self.happen(asset.id, at, "policy-changed", "limited by the scanner: it may be a medical device")

    def set_policy(self, asset_id: str, policy: ScanPolicy, at: float) -> Asset:
        """A person's decision, which no scan undoes. Raises `KeyError`."""
        asset = self.assets[asset_id]
        asset.policy, asset.policy_by = policy, "person"
        self.changed.add(asset.id)
        self.happen(asset.id, at, "policy-changed", f"{policy} by a person")
        return asset

    def set_class(self, asset_id: str, device_class: DeviceClass | None, at: float) -> Asset:
        """A person's word on what a device is; None takes it back and lets the rules decide. Raises `KeyError`."""
        asset = self.assets[asset_id]
        asset.class_locked = device_class is not None
        if device_class is not None:
            asset.device_class, asset.confidence = device_class, 1.0
            asset.reasons = ("a person said so",)
            asset.fragile = classify(asset.facts).fragile or device_class in (DeviceClass.MEDICAL, DeviceClass.PRINTER)
            if device_class is DeviceClass.MEDICAL:
                self._tighten(asset, at)
        else:
            asset.device_class = DeviceClass.UNKNOWN
            self._reclassify(asset, at)
        self.changed.add(asset.id)
        self.happen(asset.id, at, "class-set", f"{device_class} by a person" if device_class else "left to the rules")
        return asset

    def sweep_finished(self, answered: set[str], asked: set[str], at: float) -> None:
        """Count a completed sweep: who was asked (by address) and did not answer has missed one."""
        for asset in self.assets.values():
            current = {ip for ip in asset.current_ips() if ":" not in ip}
            if not current & asked or current & answered:
                continue
            asset.missed += 1
            self.changed.add(asset.id)
            self._set_presence(asset, presence(asset.missed, at - asset.last_seen), at)

    def _set_presence(self, asset: Asset, state: Presence, at: float) -> None:
        if asset.presence is state:
            return
        before, asset.presence = asset.presence, state
        # Dozing and waking are no news; leaving and coming back are.
        if {before, state} & {Presence.AWAY, Presence.GONE}:
            self.happen(asset.id, at, "presence", f"{before} to {state}")

    def happen(self, asset_id: str, at: float, kind: str, detail: str) -> None:
        """Record an event."""
        self.happenings.append(Happening(asset_id, DeviceEvent(at, kind, detail)))

    def at_ip(self, ip: str) -> Asset | None:
        """Whose address this is now."""
        known = self._by_ip.get(ip)
        return self.assets.get(known) if known else None

    def at_mac(self, mac: str) -> Asset | None:
        """Whose card this is."""
        known = self._by_mac.get(mac)
        return self.assets.get(known) if known else None

    def _index(self, asset: Asset) -> None:
        for mac in asset.macs:
            self._by_mac[mac] = asset.id
        for ip in asset.ips:
            self._by_ip.setdefault(ip, asset.id)
        for fact in identity_facts(list(asset.facts)):
            self._by_fact.setdefault(_key(fact), set()).add(asset.id)


def _key(fact: Fact) -> Fact:
    """Names compare without case and domain, whichever protocol told them."""
    if fact in identity_facts([fact]) and fact.kind.value.endswith("-name"):
        return Fact(FactKind.DNS_NAME, fact.value.lower().split(".")[0])
    return fact
