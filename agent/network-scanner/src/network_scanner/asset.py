"""One device as the scanner knows it: addresses, facts, class, policy; and its form for others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from appliance_protocol.inventory import Device, DeviceClass, Presence, ScanPolicy, Service
from network_scanner import ports
from network_scanner.facts import NAME_KINDS, Fact, FactKind

MAX_FACTS = 120
MAX_ADDRESSES = 16
"""Facts and addresses kept of one device; the ones not seen for the longest time give way."""
_Key = TypeVar("_Key")
ACTIVE = 900.0
"""Seconds for which an address seen last counts as the current one."""


@dataclass
class Seen:
    """When something was first and last seen, in seconds since the epoch."""

    first: float
    last: float


@dataclass
class Asset:
    """A device, whatever addresses it has had."""

    id: str
    first_seen: float
    last_seen: float
    macs: dict[str, Seen] = field(default_factory=dict)
    ips: dict[str, Seen] = field(default_factory=dict)
    facts: dict[Fact, Seen] = field(default_factory=dict)
    device_class: DeviceClass = DeviceClass.UNKNOWN
    confidence: float = 0.0
    reasons: tuple[str, ...] = ()
    class_locked: bool = False
    policy: ScanPolicy = ScanPolicy.STANDARD
    policy_by: str = ""
    """`person`, `scanner`, or empty while nobody has chosen."""
    presence: Presence = Presence.UP
    missed: int = 0
    fragile: bool = False
    """Whether anything suggests a medical device or a printer."""

    def values(self, kind: FactKind) -> list[str]:
        """What is known of one kind, the latest first."""
        found = [(seen.last, fact.value) for fact, seen in self.facts.items() if fact.kind is kind]
        return [value for _, value in sorted(found, reverse=True)]

    def first_value(self, kind: FactKind) -> str:
        """The latest value of one kind, or an empty string."""
        return next(iter(self.values(kind)), "")

    @property
    def randomised(self) -> bool:
        """Whether every MAC address it was seen with was made up by software."""
        return bool(self.macs) and FactKind.VENDOR not in {fact.kind for fact in self.facts} and any(
            fact.kind is FactKind.RANDOMISED for fact in self.facts
        )

    @property
    def name(self) -> str:
        """The best name known, else vendor and address, else the address."""
        for kind in NAME_KINDS:
            value = self.first_value(kind)
            if value:
                return value.split(".")[0] if kind is FactKind.DNS_NAME else value
        vendor = self.first_value(FactKind.VENDOR)
        address = next(iter(self.current_ips()), next(iter(self.macs), "unknown"))
        return f"{vendor} ({address})" if vendor else address

    def current_ips(self) -> list[str]:
        """Addresses in use, IPv4 and the latest first: those seen within `ACTIVE` seconds of the device's last sign."""
        newest = max((seen.last for seen in self.ips.values()), default=0.0)
        found = [(seen.last, ip) for ip, seen in self.ips.items() if seen.last >= newest - ACTIVE]
        return [ip for _, ip in sorted(found, key=lambda item: (":" in item[1], -item[0], item[1]))]

    def note(self, table: dict[str, Seen], address: str, at: float) -> bool:
        """Record an address; True when it is new."""
        seen = table.get(address)
        if seen is not None:
            seen.last = max(seen.last, at)
            return False
        table[address] = Seen(at, at)
        _bound(table, MAX_ADDRESSES)
        return True

    def learn(self, facts: Iterable[Fact], at: float) -> list[Fact]:
        """Record facts; returns the new ones."""
        new = []
        for fact in facts:
            seen = self.facts.get(fact)
            if seen is None:
                self.facts[fact] = Seen(at, at)
                new.append(fact)
            else:
                seen.last = max(seen.last, at)
        _bound(self.facts, MAX_FACTS)
        return [fact for fact in new if fact in self.facts]

    def to_device(self) -> Device:
        """The wire model."""
        return Device(
            id=self.id, name=self.name, device_class=self.device_class, confidence=self.confidence,
            reasons=self.reasons, vendor=self.first_value(FactKind.VENDOR), policy=self.policy,
            presence=self.presence, first_seen=self.first_seen, last_seen=self.last_seen,
            mac_addresses=tuple(sorted(self.macs, key=lambda mac: -self.macs[mac].last)),
            ip_addresses=tuple(self.current_ips()), services=self._services(),
            randomised_mac=self.randomised, class_locked=self.class_locked,
        )

    def _services(self) -> tuple[Service, ...]:
        found = []
        for value in self.values(FactKind.PORT):
            number, _, protocol = value.partition("/")
            found.append(Service(int(number), protocol, ports.name(int(number))))
        return tuple(sorted(found, key=lambda service: service.port))


def _bound(table: dict[_Key, Seen], limit: int) -> None:
    while len(table) > limit:
        del table[min(table, key=lambda key: table[key].last)]
