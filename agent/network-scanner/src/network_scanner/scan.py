"""One scan: sweep, ask for names, visit hosts. It sends nothing but through the pacer, and asks before each step."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from appliance_protocol.inventory import Presence, ScanPolicy, ScanSummary
from network_scanner import names
from network_scanner.addresses import Network4, hosts
from network_scanner.anomalies import Watch
from network_scanner.asset import Asset
from network_scanner.config import Exclusions, Probing
from network_scanner.facts import Fact, FactKind, Observation
from network_scanner.inventory import Inventory
from network_scanner.link import Link, LinkError
from network_scanner.listener import Listener
from network_scanner.pacer import Pacer
from network_scanner.probe import Visit, port_order, visit_ports, visit_services
from network_scanner.sweep import Sweeper, SweepResult

MAX_ADDRESSES = 4096
"""Addresses of one sweep (a /20): at 100 a second already over a minute."""
VISITS = 64
"""Hosts visited at the same time, at most."""
VISIT_SPACING = 0.13
"""Seconds between the starts of two visits. A host visited probes our address some seconds later (it answers to one
it has not confirmed): hosts started together would make the kernel answer them together, beside the pacer."""

Progress = Callable[[str, int, int], None]


def no_progress(stage: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


@dataclass
class Scanner:
    """Everything a scan works with. `allowed` is asked before anything is sent: quiet hours and pause end a scan."""

    link: Link
    listener: Listener
    pacer: Pacer
    inventory: Inventory
    watch: Watch
    exclusions: Exclusions
    probing: Probing = field(default_factory=Probing)
    progress: Progress = no_progress

    def excluded(self, asset: Asset) -> bool:
        """Whether a device must not get a packet, by a person's policy or by the configuration."""
        if asset.policy is ScanPolicy.EXCLUDED:
            return True
        return any(self.exclusions.covers(mac, "") for mac in asset.macs) or any(
            self.exclusions.covers("", ip) for ip in asset.current_ips()
        )

    def excluded_addresses(self, addresses: list[str]) -> set[str]:
        """Those of `addresses` that are excluded, or were last seen with an excluded device."""
        found = {ip for ip in addresses if self.exclusions.covers("", ip)}
        for asset in self.inventory.assets.values():
            if self.excluded(asset):
                found |= {ip for ip in asset.ips if self.inventory.at_ip(ip) is asset}
        return found

    async def run(self, network: Network4, *, full: bool) -> ScanSummary:
        """Sweep `network` and, if `full`, visit its hosts. A failure is told in the summary's `error`."""
        before = self.pacer.sent
        summary = ScanSummary(secrets.token_hex(8), time.time(), None, str(network), 0, 0)
        error, up = "", 0
        # The listener's membership reports leave in the first seconds; they count like everything else.
        await self.pacer.spend("", 2 * self.listener.joins)
        self.listener.joins = 0
        try:
            asking = asyncio.create_task(self._ask_names()) if full else None
            try:
                found = await self._sweep(network)
                up = len(found)
            finally:
                if asking is not None:
                    await asking
            if full:
                await self._inventory(found)
        except (LinkError, OSError) as problem:
            error = str(problem)
        return replace(
            summary, finished_at=time.time(), hosts_up=up, packets_sent=self.pacer.sent - before, error=error,
            counts=self.counts(),
        )

    def counts(self) -> dict[str, int]:
        """Devices by class, the gone ones left out."""
        present = [item for item in self.inventory.assets.values() if item.presence is not Presence.GONE]
        return dict(Counter(item.device_class.value for item in present))

    async def _sweep(self, network: Network4) -> dict[str, str]:
        addresses = sweepable(network, self.link)
        skipped = self.excluded_addresses(addresses)
        sweeper = Sweeper(self.link, self.listener, self.pacer)
        self.watch.sweeping = True
        try:
            result = await sweeper.sweep(
                addresses, excluded=skipped, progress=lambda done, total: self.progress("sweep", done, total)
            )
            found = self._judge(result, set(addresses) - skipped)
            await sweeper.ask_ipv6(self._only_ipv6())
            return found
        except BaseException:
            self.watch.sweep_failed()
            raise
        finally:
            sweeper.close()

    def _judge(self, result: SweepResult, asked: set[str]) -> dict[str, str]:
        now = time.time()
        self.watch.sweep_finished(result, now)
        gateway = self.inventory.at_ip(self.link.gateway) if self.link.gateway else None
        if gateway is not None:
            mac = next(iter(gateway.macs))
            self.inventory.observe(Observation(now, mac, "", (Fact(FactKind.ROLE, "gateway"),), "route"))
        found = result.hosts()
        self.inventory.sweep_finished(set(found), asked, now)
        return found

    def _only_ipv6(self) -> list[str]:
        """Addresses of devices that ARP cannot reach; none while any IPv4 address is excluded.

        A device known by IPv6 alone may be the one whose IPv4 address is on the list.
        """
        found: list[str] = []
        if self.exclusions.networks:
            return found
        for asset in self.inventory.assets.values():
            current = asset.current_ips()
            if not self.excluded(asset) and all(":" in ip for ip in current):
                found += current[:2]
        return found[:256]

    async def _ask_names(self) -> None:
        """The multicast questions, unless a device is excluded: nobody can be left out of a multicast.

        Asked while the sweep runs, so that the answers are in before the first connection.
        """
        excluded = self.exclusions.macs or self.exclusions.networks or any(
            asset.policy is ScanPolicy.EXCLUDED for asset in self.inventory.assets.values()
        )
        if self.probing.ask_names and not excluded:
            self.progress("names", 0, 1)
            await names.ask_everybody(self.link, self.pacer)
            self.progress("names", 1, 1)

    async def _inventory(self, found: dict[str, str]) -> None:
        if self.probing.connect:
            await self._visit_all(found)
        if self.probing.ask_names:
            await self._reverse(found)

    async def _visit_all(self, found: dict[str, str]) -> None:
        targets = [(ip, mac) for ip, mac in found.items() if self._may_visit(mac, ip)]
        room, done = asyncio.Semaphore(VISITS), 0
        sweeper = Sweeper(self.link, self.listener, self.pacer)

        async def one(ip: str, mac: str) -> None:
            nonlocal done
            try:
                await self._visit(sweeper, ip, mac)
            finally:
                room.release()
            done += 1
            self.progress("visits", done, len(targets))

        self.progress("visits", 0, len(targets))
        try:
            async with asyncio.TaskGroup() as group:
                for ip, mac in targets:
                    await room.acquire()
                    group.create_task(one(ip, mac))
                    await asyncio.sleep(VISIT_SPACING)
        except* (LinkError, OSError) as problems:
            raise LinkError(str(problems.exceptions[0])) from None
        finally:
            sweeper.close()

    def _may_visit(self, mac: str, ip: str) -> bool:
        """Whether a connection to this host is allowed right now: asked again before every single one."""
        asset = self.inventory.at_mac(mac)
        return (
            asset is not None and asset.policy is ScanPolicy.STANDARD and not self.excluded(asset)
            and not self.exclusions.covers(mac, ip)
        )

    async def _visit(self, sweeper: Sweeper, ip: str, mac: str) -> None:
        asset = self.inventory.at_mac(mac)
        if asset is None:
            return
        visit = Visit(
            ip, mac, allowed=lambda: self._may_visit(mac, ip), alive=lambda: sweeper.alive(ip, mac),
            # A person who chose `standard` for this device has answered the question that stopping asks.
            stop_at_medical=asset.policy_by != "person",
        )
        early, late = port_order()
        await visit_ports(self.link, self.pacer, visit, early)
        may_ask = self._learn(visit, visit.facts)
        if visit.stopped:
            return
        if may_ask and self.probing.read_banners:
            await visit_services(self.link, self.pacer, visit, lambda facts: self._learn(visit, facts))
        await visit_ports(self.link, self.pacer, visit, late)
        if self._learn(visit, visit.facts):
            await self._ask_host(visit)

    def _learn(self, visit: Visit, facts: list[Fact]) -> bool:
        """Keep what a visit found; whether the host may be spoken to now that this is known."""
        asset = self.inventory.observe(Observation(time.time(), visit.mac, visit.ip, tuple(facts), "visit"))
        if asset is None:
            return False
        if visit.stopped:
            self.inventory.happen(asset.id, time.time(), "visit-stopped", f"the visit was ended: {visit.stopped}")
        return not visit.stopped and not asset.fragile and self._may_visit(visit.mac, visit.ip)

    async def _ask_host(self, visit: Visit) -> None:
        """Unicast questions by UDP, only to hosts that are known to be neither printer nor medical."""
        asset = self.inventory.at_mac(visit.mac)
        if asset is None or asset.fragile or not visit.open_ports:
            return
        facts: list[Fact] = []
        if {139, 445} & set(visit.open_ports) and not asset.first_value(FactKind.NETBIOS_NAME):
            facts += await names.netbios_name(self.pacer, visit.ip, visit.mac)
        if self.probing.snmp_community:
            community = self.probing.snmp_community
            facts += await names.snmp_description(self.pacer, visit.ip, visit.mac, community)
        self._learn(visit, facts)

    async def _reverse(self, found: dict[str, str]) -> None:
        wanted = []
        for ip, mac in found.items():
            asset = self.inventory.at_mac(mac)
            if asset is not None and not self.excluded(asset) and not asset.first_value(FactKind.DNS_NAME):
                wanted.append(ip)
        for ip, facts in (await names.look_up_all(self.pacer, wanted)).items():
            self.inventory.observe(Observation(time.time(), found[ip], ip, facts, "dns"))


def sweepable(network: Network4, link: Link) -> list[str]:
    """The addresses of `network` to sweep. Raises `LinkError` when it is not on the link or too large."""
    if not network.overlaps(link.network):
        raise LinkError(
            f"{network} is not on {link.name} ({link.network}): ARP reaches only the own network; "
            "choose that or another interface"
        )
    if network.num_addresses > MAX_ADDRESSES:
        minutes = network.num_addresses / 100 / 60
        raise LinkError(
            f"{network} has {network.num_addresses} addresses, {minutes:.0f} minutes at 100 a second; "
            f"give a network of at most {MAX_ADDRESSES} (/20)"
        )
    return list(hosts(network))


def sweep_network(link: Link) -> Network4:
    """The own network, or the /24 around our own address when the own one is too large to sweep."""
    if link.network.num_addresses <= MAX_ADDRESSES:
        return link.network
    return ipaddress.IPv4Network(f"{link.ip}/24", strict=False)
