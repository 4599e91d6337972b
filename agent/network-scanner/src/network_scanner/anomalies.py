"""What is wrong with the network itself: two devices on one address, a proxy answering for everybody, another gateway.

Each of these once meant hundreds of wrong devices or addresses that flap between two; here each is one event, and
the inventory keeps what it knew.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from network_scanner.facts import Fact, FactKind, Observation
from network_scanner.inventory import Inventory
from network_scanner.sweep import SweepResult

TOGETHER = 120.0
"""Seconds within which two devices on one address are there together (a DHCP lease is not handed on that fast)."""
REPEAT = 6 * 3600.0
"""Seconds before the same anomaly is told again."""
MAX_BINDINGS = 4096


@dataclass
class _Binding:
    mac: str
    at: float
    challenger: str = ""
    challenged_at: float = 0.0


@dataclass
class Watch:
    """Stands between the listener and the inventory."""

    inventory: Inventory
    gateway: str = ""
    sweeping: bool = False
    proxies: set[str] = field(default_factory=set)
    """MAC addresses that answer for others: what they say of addresses is believed for the gateway's alone."""
    _bindings: dict[str, _Binding] = field(default_factory=dict)
    _held: dict[tuple[str, str], Observation] = field(default_factory=dict)
    _told: dict[tuple[str, str], float] = field(default_factory=dict)
    _dhcp_servers: dict[str, float] = field(default_factory=dict)

    def take(self, seen: Observation) -> None:
        """One observation from the listener."""
        if seen.source == "arp" and seen.bound and self.sweeping:
            # Who answers for everybody is known only when the sweep is over; until then no answer makes a device.
            if len(self._held) < MAX_BINDINGS:
                self._held[seen.mac, seen.ip] = seen
            return
        if seen.mac in self.proxies and seen.ip and seen.ip != self.gateway:
            seen = replace(seen, ip="", bound=False)
        if not (seen.bound and seen.mac and seen.ip) or self._accept(seen):
            self.inventory.observe(seen)
        if any(item == Fact(FactKind.ROLE, "dhcp-server") for item in seen.facts):
            self._dhcp(seen)

    def sweep_finished(self, result: SweepResult, at: float) -> None:
        """Judge a completed sweep, then let its answers through."""
        self.sweeping = False
        proxies = result.proxies()
        duplicates = result.duplicates()
        for mac in proxies:
            self._proxy(mac, sum(mac in macs for macs in result.answers.values()), at)
        for ip, macs in duplicates.items():
            self._tell(f"duplicate {ip}", at, "duplicate-address", f"{' and '.join(macs[:4])} answer for {ip}", macs)
        held, self._held = self._held, {}
        for seen in held.values():
            own = seen.mac not in proxies or seen.ip == self.gateway
            first = result.answers.get(seen.ip, [seen.mac])[0] if seen.ip in duplicates else seen.mac
            if own and (first == seen.mac or seen.ip not in duplicates):
                self.take(seen)
            elif own:
                self.inventory.observe(Observation(seen.at, seen.mac, "", seen.facts, "arp"))

    def sweep_failed(self) -> None:
        """Forget the answers of a sweep that did not finish."""
        self.sweeping = False
        self._held.clear()

    def _accept(self, seen: Observation) -> bool:
        """Whether a binding may be believed; two devices that fight over an address keep it as it was."""
        known = self._bindings.get(seen.ip)
        if known is None or (known.mac != seen.mac and seen.at - known.at > TOGETHER):
            self._rebind(seen, known)
            return True
        if known.mac == seen.mac:
            known.at = seen.at
            return True
        if known.challenger == seen.mac and known.at > known.challenged_at:
            # The challenger spoke, then the owner, now the challenger again: both are there.
            self._tell(
                f"duplicate {seen.ip}", seen.at, "duplicate-address",
                f"{known.mac} and {seen.mac} both use {seen.ip}", [known.mac, seen.mac],
            )
            return False
        if known.challenger == seen.mac:
            # Only the new one speaks: the address moved on.
            self._rebind(seen, known)
            return True
        known.challenger, known.challenged_at = seen.mac, seen.at
        return False

    def _rebind(self, seen: Observation, known: _Binding | None) -> None:
        if known is not None and seen.ip == self.gateway:
            self._tell(
                f"gateway {seen.mac}", seen.at, "gateway-changed",
                f"the gateway {seen.ip} was {known.mac}, now {seen.mac} answers for it", [seen.mac],
            )
        if len(self._bindings) >= MAX_BINDINGS:
            self._bindings.pop(next(iter(self._bindings)))
        self._bindings.pop(seen.ip, None)
        self._bindings[seen.ip] = _Binding(seen.mac, seen.at)

    def remember(self, ip: str, mac: str, at: float) -> None:
        """A binding known from before this start, so that a gateway changed while we were off still shows."""
        self._bindings.setdefault(ip, _Binding(mac, at))

    def _proxy(self, mac: str, count: int, at: float) -> None:
        self.proxies.add(mac)
        role = (Fact(FactKind.ROLE, "proxy-arp"),)
        self.inventory.observe(Observation(at, mac, "", role, "sweep"))
        self._tell(f"proxy {mac}", at, "proxy-arp", f"{mac} answered for {count} addresses: proxy ARP", [mac])

    def _dhcp(self, seen: Observation) -> None:
        self._dhcp_servers[seen.mac] = seen.at
        recent = sorted(mac for mac, at in self._dhcp_servers.items() if seen.at - at < 86400)
        if len(recent) > 1:
            self._tell("dhcp", seen.at, "second-dhcp-server", f"{' and '.join(recent[:4])} answer DHCP", recent)

    def _tell(self, key: str, at: float, kind: str, detail: str, macs: list[str]) -> None:
        last = self._told.get((kind, key))
        if last is not None and at - last < REPEAT:
            return
        if len(self._told) > MAX_BINDINGS:
            self._told.clear()
        self._told[kind, key] = at
        self.inventory.happen("", at, kind, detail)
        for mac in macs:
            asset = self.inventory.at_mac(mac)
            if asset is not None:
                self.inventory.happen(asset.id, at, kind, detail)
