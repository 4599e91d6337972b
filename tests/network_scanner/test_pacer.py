"""The pacer's promise: no window of one second ever holds more packets than the limit, wherever it starts."""

from __future__ import annotations

import asyncio
import bisect
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from network_scanner import connect
from network_scanner.pacer import LIMIT_ALL, LIMIT_HOST, WINDOW, Budget, Pacer


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Plan:
    """A connection: pause before it, packets leased, how long it lasts, and when (as a share) its packets leave.

    At `reported` (a share as well) the pacer is told of what has left so far; the rest stays leased until the end.
    """

    pause: float
    leased: int
    duration: float
    moments: list[float]
    reported: float


@st.composite
def connections(draw: st.DrawFn) -> list[Plan]:
    found = []
    for _ in range(draw(st.integers(1, 120))):
        leased = draw(st.integers(1, 6))
        moments = sorted(draw(st.lists(st.floats(0, 1), max_size=leased)))
        found.append(Plan(draw(st.floats(0, 0.05)), leased, draw(st.floats(0, 0.9)), moments, draw(st.floats(0, 1))))
    return found


@given(connections(), st.integers(8, 40))
@settings(max_examples=100, deadline=None)
def test_no_second_holds_more_than_the_limit_whenever_the_leased_packets_really_leave(
    plan: list[Plan], limit: int
) -> None:
    budget, now, sent = Budget(limit), 0.0, list[float]()
    running: list[tuple[float, int, int]] = []

    def finish_until(moment: float) -> None:
        for at, leased, used in sorted(item for item in running if item[0] <= moment):
            budget.settle(leased, used, at)
            running.remove((at, leased, used))

    for item in plan:
        now += item.pause
        finish_until(now)
        while (delay := budget.wait(now, item.leased)) != 0.0:
            # Wait as long as told, or until another connection says what it sent.
            now = min([entry[0] for entry in running] + ([now + delay] if delay is not None else []))
            finish_until(now)
        budget.lease(item.leased)
        early = bisect.bisect_right(item.moments, item.reported)
        running.append((now + item.duration * item.reported, early, early))
        running.append((now + item.duration, item.leased - early, len(item.moments) - early))
        sent += [now + item.duration * moment for moment in item.moments]
    sent.sort()
    for index, at in enumerate(sent):
        assert bisect.bisect_left(sent, at + 1.0) - index <= limit


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", ""]), st.integers(1, 3)), max_size=60))
@settings(max_examples=40, deadline=None)
def test_grants_keep_to_both_limits_and_come_in_bounded_time(asks: list[tuple[str, int]]) -> None:
    async def run() -> list[tuple[float, str, int]]:
        clock, granted = Clock(), list[tuple[float, str, int]]()
        pacer = Pacer(clock=clock)
        original = asyncio.sleep, asyncio.wait_for

        async def sleep(seconds: float) -> None:
            clock.now += max(seconds, 0.0001)

        async def wait_for(waiting: object, timeout: float | None) -> None:
            assert timeout is not None, "a lease that was settled at once cannot make anybody wait for it"
            waiting.close()  # type: ignore[attr-defined]
            clock.now += timeout
            raise TimeoutError

        asyncio.sleep, asyncio.wait_for = sleep, wait_for  # type: ignore[assignment]
        try:
            for host, count in asks:
                await pacer.spend(host, count)
                granted.append((clock.now, host, count))
        finally:
            asyncio.sleep, asyncio.wait_for = original  # type: ignore[assignment]
        return granted

    granted = asyncio.run(run())
    assert len(granted) == len(asks)
    for at, _, _ in granted:
        window = [(host, count) for moment, host, count in granted if at <= moment < at + 1.0]
        assert sum(count for _, count in window) < LIMIT_ALL
        for name in "abc":
            assert sum(count for host, count in window if host == name) < LIMIT_HOST


async def test_what_was_leased_but_not_sent_is_given_back_at_once() -> None:
    pacer = Pacer()
    for _ in range(20):
        (await pacer.lease("host", 3)).settle(0)
    assert pacer.sent == 0
    assert pacer._host("host").used(1e12) == 0


async def test_while_an_answer_is_awaited_only_what_it_may_cost_is_held_back() -> None:
    clock = Clock()
    pacer = Pacer(clock=clock)
    lease = await pacer.lease("host", 4)
    lease.sent(1)
    assert (lease.count, pacer.sent, pacer._host("host").used(clock.now)) == (3, 1, 4)
    clock.now += WINDOW
    assert pacer._host("host").used(clock.now) == 3
    lease.settle(2)
    assert (pacer.sent, pacer._host("host").used(clock.now)) == (3, 2)


async def test_a_lease_nobody_settled_blocks_its_host_and_nobody_else() -> None:
    pacer = Pacer()
    await pacer.lease("held", pacer.host_capacity)
    blocked = asyncio.create_task(pacer.lease("held", 1))
    await asyncio.wait_for(pacer.lease("other", 2), 1)
    assert not blocked.done()
    blocked.cancel()


async def test_packets_the_kernel_sent_by_itself_slow_down_what_follows() -> None:
    clock = Clock()
    pacer = Pacer(clock=clock)
    pacer.record("host", pacer.host_capacity)
    assert pacer.sent == pacer.host_capacity
    assert pacer._host("host").wait(clock.now, 1) == pytest.approx(WINDOW)


async def test_a_lease_that_can_never_fit_is_refused_instead_of_waiting_for_ever() -> None:
    with pytest.raises(ValueError, match="never fit"):
        await Pacer().lease("host", LIMIT_HOST + 1)


@pytest.mark.parametrize(("rate", "host_rate"), [(100000, 1000), (100, 10), (1, 1)])
def test_no_configuration_lifts_the_limits(rate: int, host_rate: int) -> None:
    pacer = Pacer(rate, host_rate)
    assert pacer.capacity < LIMIT_ALL
    assert pacer.host_capacity < LIMIT_HOST


async def test_at_the_lowest_rates_a_host_can_still_be_asked_something() -> None:
    pacer = Pacer(10, 5)
    for cost in (connect.OPEN_COST + connect.NEIGHBOUR_COST, connect.EXCHANGE_COST, connect.CLOSE_COST):
        (await asyncio.wait_for(pacer.lease("host", cost), 1)).settle(0)


async def test_cancelling_who_waits_harms_nobody() -> None:
    pacer = Pacer()
    lease = await pacer.lease("host", pacer.host_capacity)
    waiting = [asyncio.create_task(pacer.lease("host", 2)) for _ in range(5)]
    await asyncio.sleep(0.01)
    for task in waiting:
        task.cancel()
    lease.settle(0)
    (await asyncio.wait_for(pacer.lease("host", 2), 1)).settle(2)
    assert pacer.sent == 2
