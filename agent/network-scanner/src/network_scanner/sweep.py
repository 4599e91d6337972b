"""Who is there: ARP requests to every address, paced, and neighbour solicitations for what only has IPv6.

The time is n x interval + the wait for the last answers. Those that kept silent are asked a second time (a sleeping
wireless client misses the first request), each once its own wait is over, so that the passes overlap.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from network_scanner.addresses import BROADCAST_MAC
from network_scanner.facts import Observation
from network_scanner.link import Link, LinkError, is_running, send_socket
from network_scanner.listener import Listener
from network_scanner.pacer import Pacer
from network_scanner.packets import ndp
from network_scanner.packets.ethernet import arp_request

REPLY_WAIT = 0.5
"""Seconds that an address has for its answer before it is asked again, or the sweep ends."""
PASSES = 2
NEIGHBOUR_PACKETS = 3
"""The solicitation, and what the kernel sends when the neighbour probes us some seconds later."""
PROXY_THRESHOLD = 16
"""Addresses that one MAC address may answer for before it is taken for a proxy (a router's proxy ARP answers all)."""


@dataclass
class SweepResult:
    """Who answered: address to the MAC addresses that did, in order of arrival."""

    answers: dict[str, list[str]] = field(default_factory=dict)
    asked: int = 0

    def proxies(self) -> set[str]:
        """MAC addresses that answered for more addresses than a device has."""
        counts: dict[str, int] = {}
        for macs in self.answers.values():
            for mac in macs:
                counts[mac] = counts.get(mac, 0) + 1
        return {mac for mac, count in counts.items() if count > PROXY_THRESHOLD}

    def duplicates(self) -> dict[str, list[str]]:
        """Addresses that more than one device answered for, proxies left out."""
        proxies = self.proxies()
        found = {ip: [mac for mac in macs if mac not in proxies] for ip, macs in self.answers.items()}
        return {ip: macs for ip, macs in found.items() if len(macs) > 1}

    def hosts(self) -> dict[str, str]:
        """Address to MAC address of everybody who speaks for himself."""
        proxies = self.proxies()
        found = {}
        for ip, macs in self.answers.items():
            own = [mac for mac in macs if mac not in proxies]
            if own:
                found[ip] = own[0]
        return found


class Sweeper:
    """Sends the requests; the answers come in through the listener."""

    def __init__(self, link: Link, listener: Listener, pacer: Pacer) -> None:
        """Open the sending socket. Raises `LinkError`."""
        self._link, self._listener, self._pacer = link, listener, pacer
        self._socket = send_socket(link)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def sweep(
        self,
        addresses: Sequence[str],
        *,
        excluded: Collection[str] = frozenset(),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> SweepResult:
        """Ask for every address but our own and the excluded ones. Raises `LinkError` when the link goes down."""
        targets = [ip for ip in addresses if ip != self._link.ip and ip not in excluded]
        result = SweepResult()

        def answered(observation: Observation) -> None:
            if observation.source == "arp" and observation.ip and ":" not in observation.ip:
                macs = result.answers.setdefault(observation.ip, [])
                if observation.mac not in macs:
                    macs.append(observation.mac)

        self._listener.handlers.append(answered)
        try:
            asked_at: dict[str, float] = {}
            for number in range(PASSES):
                for done, ip in enumerate(targets, 1):
                    await asyncio.sleep(max(asked_at.get(ip, 0.0) + REPLY_WAIT - time.monotonic(), 0.0))
                    if ip not in result.answers:
                        await self.request(ip, sweeping=True)
                        asked_at[ip] = time.monotonic()
                        result.asked += 1
                    progress(number * len(targets) + done, PASSES * len(targets))
            await asyncio.sleep(REPLY_WAIT)
        finally:
            self._listener.handlers.remove(answered)
        wanted = set(targets)
        result.answers = {ip: macs for ip, macs in result.answers.items() if ip in wanted}
        return result

    async def request(self, ip: str, mac: str = BROADCAST_MAC, *, sweeping: bool = False) -> None:
        """One paced ARP request, broadcast or to `mac` alone. Raises `LinkError` when the link is down."""
        await self._pacer.spend(ip if mac == BROADCAST_MAC else mac, sweeping=sweeping)
        self._send(arp_request(self._link.mac, self._link.ip, ip, mac))

    async def alive(self, ip: str, mac: str, wait: float = 0.7) -> bool:
        """Whether the device still answers ARP: asked directly, then by broadcast, `wait` seconds each."""
        seen = asyncio.Event()

        def answered(observation: Observation) -> None:
            if observation.source == "arp" and observation.ip == ip:
                seen.set()

        self._listener.handlers.append(answered)
        try:
            for target in (mac, BROADCAST_MAC):
                await self.request(ip, target)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(seen.wait(), wait)
                    return True
            return False
        finally:
            self._listener.handlers.remove(answered)

    async def ask_ipv6(self, known: Collection[str]) -> None:
        """A neighbour solicitation for each address already known. Raises `LinkError` when the link is down.

        A /64 cannot be swept, and an echo to all nodes makes every one of them resolve and probe us, three bursts of
        answers that nobody could pace. New IPv6 neighbours are heard: each announces itself when it comes.
        """
        if not self._link.ipv6:
            return
        for address in known:
            await self._pacer.spend(address, NEIGHBOUR_PACKETS)
            self._send(ndp.solicitation(self._link.mac, self._link.ipv6, address))

    def _send(self, frame: bytes) -> None:
        try:
            self._socket.send(frame)
        except BlockingIOError:
            return  # the interface's queue is full; the second pass asks again
        except OSError as error:
            state = "is down" if not is_running(self._link.name) else f"cannot send: {error.strerror}"
            raise LinkError(f"interface {self._link.name} {state}; the sweep was stopped") from error
