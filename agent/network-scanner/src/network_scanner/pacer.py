"""How fast the scanner may be: at most so many packets in any second, in all and towards one host.

Every packet that leaves because of us counts: requests, acknowledgements, closing packets. Since how many a
connection will cost is known only afterwards, the worst case is leased beforehand and what was not needed is given
back. A lease weighs from the moment it is taken until one second after it is settled, so that no window of one
second, wherever it starts, can hold more packets than the limit (`tests/network_scanner/test_pacer.py` proves it
for arbitrary schedules; a capture proves it on a wire).

The limits are 100 and 10. The leases stay below them (`SLACK_ALL`, `SLACK_HOST`), because the kernel adds what no
program can lease: it answers and asks for addresses on its own. What it answers is seen by the listener and recorded
here (`record`), so that it slows down what follows.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

LIMIT_ALL = 100
"""Packets in any second, at most, whatever the configuration says."""
LIMIT_HOST = 10
"""Packets in any second towards one host, at most, whatever the configuration says."""
SLACK_ALL = 6
SLACK_HOST = 3
SLACK_SWEEP = 3
"""What is left of the rate while only ARP requests leave."""
LEAST = 4
"""Packets that can be leased at once at the lowest rates: with fewer, nobody could be asked anything at all."""
WINDOW = 1.04
"""Seconds; 40 ms more than the promise, for the time between our clock and the wire on a busy machine."""
BURST = 4
"""Packets that may leave back to back after a pause."""


@dataclass
class Budget:
    """The packets of one window: leased ones and those settled less than a window ago. Knows no clock of its own."""

    limit: int
    leased: int = 0
    settled: deque[tuple[float, int]] = field(default_factory=deque)
    spent: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a lease is settled, so that whoever waits looks again."""

    def used(self, now: float) -> int:
        """Packets that weigh at `now`."""
        while self.settled and self.settled[0][0] + WINDOW <= now:
            self.spent -= self.settled.popleft()[1]
        return self.leased + self.spent

    def wait(self, now: float, count: int, extra: int = 0) -> float | None:
        """Seconds until `count` more may fit, 0 when they do; None when only a settlement can tell.

        `extra` raises the limit for this question.
        """
        excess = self.used(now) + count - self.limit - extra
        if excess <= 0:
            return 0.0
        for at, packets in self.settled:
            excess -= packets
            if excess <= 0:
                return max(at + WINDOW - now, 0.0005)
        return None

    def lease(self, count: int) -> None:
        """Take `count` packets; the caller has made sure that they fit."""
        self.leased += count

    def settle(self, leased: int, used: int, now: float) -> None:
        """Turn a lease into what was really sent."""
        self.leased -= leased
        if used:
            self.settled.append((now, used))
            self.spent += used
        self.changed.set()

    def idle(self, now: float) -> bool:
        """Whether nothing weighs any more."""
        return self.used(now) == 0


@dataclass
class Lease:
    """Packets that may be sent now. `settle` it as soon as no more of them will be."""

    count: int
    _finish: Callable[[int, int], None]
    open: bool = True

    def sent(self, packets: int) -> None:
        """Say that so many have left and that the rest may follow: a wait then holds back only what it may cost."""
        if self.open:
            part = min(packets, self.count)
            self.count -= part
            self._finish(part, packets)

    def settle(self, used: int) -> None:
        """Say how many more were sent, and that none will be; more than leased is recorded as it is.

        Further calls do nothing.
        """
        if self.open:
            self.open = False
            self._finish(self.count, used)


class Pacer:
    """Leases packets to everything that sends, in the order of asking."""

    def __init__(
        self, rate: int = LIMIT_ALL, host_rate: int = LIMIT_HOST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`rate` and `host_rate` in packets a second, both clipped to the limits above."""
        rate, host_rate = max(10, min(rate, LIMIT_ALL)), max(5, min(host_rate, LIMIT_HOST))
        self.capacity = max(rate - SLACK_ALL, LEAST)
        self.host_capacity = max(min(host_rate - SLACK_HOST, self.capacity), LEAST)
        self.sent = 0
        self._sweep_extra = max(SLACK_ALL - SLACK_SWEEP, 0)
        self._all = Budget(self.capacity)
        self._hosts: dict[str, Budget] = {}
        self._clock = clock
        self._turn = asyncio.Lock()
        self._next = 0.0

    async def lease(self, host: str, count: int, *, sweeping: bool = False) -> Lease:
        """Wait until `count` packets may go to `host` (empty: to nobody in particular, a broadcast).

        Never ask for a second lease while holding one: that could wait for itself. Raises `ValueError` when `count`
        can never fit. `sweeping` uses the slack that ARP requests do not need.
        """
        extra = self._sweep_extra if sweeping else 0
        if count > (self.host_capacity if host else self.capacity):
            raise ValueError(f"{count} packets never fit into {self.host_capacity} a second")
        while True:
            await self._wait(self._host(host) if host else None, count)
            async with self._turn:
                await self._smooth(count, extra)
                # Asked last, since the kernel may have sent something meanwhile.
                await self._wait(self._all, count, extra)
                budget = self._host(host) if host else None
                if budget is None or budget.wait(self._clock(), count) == 0.0:
                    return self._grant(budget, count)

    async def spend(self, host: str, count: int = 1, *, sweeping: bool = False) -> None:
        """Wait until `count` packets may go, and count them as sent at once."""
        if count:
            (await self.lease(host, count, sweeping=sweeping)).settle(count)

    def record(self, host: str, count: int = 1) -> None:
        """Count packets that the kernel has sent for us without asking."""
        now = self._clock()
        self.sent += count
        self._all.settle(0, count, now)
        self._host(host).settle(0, count, now)

    def _grant(self, budget: Budget | None, count: int) -> Lease:
        self._all.lease(count)
        if budget is not None:
            budget.lease(count)

        def finish(leased: int, used: int) -> None:
            now = self._clock()
            self.sent += used
            self._all.settle(leased, used, now)
            if budget is not None:
                budget.settle(leased, used, now)
            # What was leased but not sent need not be waited for either.
            self._next -= max(leased - used, 0) / self.capacity

        return Lease(count, finish)

    async def _wait(self, budget: Budget | None, count: int, extra: int = 0) -> None:
        while budget is not None:
            delay = budget.wait(self._clock(), count, extra)
            if delay == 0.0:
                return
            budget.changed.clear()
            try:
                await asyncio.wait_for(budget.changed.wait(), delay)
            except TimeoutError:
                continue

    async def _smooth(self, count: int, extra: int) -> None:
        """Spread packets evenly instead of sending a second's worth at once."""
        now = self._clock()
        self._next = max(self._next, now - BURST / self.capacity)
        if self._next > now:
            await asyncio.sleep(self._next - now)
        self._next += count / (self.capacity + extra)

    def _host(self, host: str) -> Budget:
        now = self._clock()
        if len(self._hosts) > 512:
            self._hosts = {name: budget for name, budget in self._hosts.items() if not budget.idle(now)}
        return self._hosts.setdefault(host, Budget(self.host_capacity))
