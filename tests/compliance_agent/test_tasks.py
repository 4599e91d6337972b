"""Tasks: each with its own deadline, failing without falling, and honest about being stuck."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from compliance_agent.offload import DeadlineMissed, in_thread
from compliance_agent.tasks import Task


async def until(condition: object, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_a_round_that_raises_is_told_and_the_next_one_comes() -> None:
    outcomes = iter([ValueError("no space"), None])

    async def work() -> float:
        outcome = next(outcomes, None)
        if outcome is not None:
            raise outcome
        return 60.0

    task = Task("test", work, interval=0.01, deadline=1)
    task.start()
    await until(lambda: task.rounds >= 1)
    await until(lambda: task.rounds >= 2)
    assert task.error == ""
    assert not task.report().stuck
    await task.stop()


async def test_a_round_past_its_deadline_is_cut_off_and_that_is_no_progress() -> None:
    async def work() -> None:
        await asyncio.sleep(60)

    task = Task("test", work, interval=60, deadline=0.05, grace=0.05)
    task.start()
    await until(lambda: task.rounds >= 1)
    assert task.error == "did not finish within 0.05 s"
    await until(lambda: task.report().stuck)
    await task.stop()


async def test_run_now_waits_for_a_round_that_began_after_the_call() -> None:
    begun: list[float] = []

    async def work() -> float:
        begun.append(time.monotonic())
        await asyncio.sleep(0.05)
        return 60.0

    task = Task("test", work, interval=60, deadline=5)
    task.start()
    await until(lambda: begun)
    called = time.monotonic()
    assert await task.run_now() == ""
    assert begun[-1] >= called
    await task.stop()


async def test_a_task_that_ended_is_stuck() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    task = Task("test", work, interval=60, deadline=5)
    task.start()
    await until(lambda: task.report().stuck)


async def test_blocking_work_past_its_deadline_does_not_hold_up_the_loop() -> None:
    release = threading.Event()
    with pytest.raises(DeadlineMissed, match=r"slow took more than 0\.05 s"):
        await in_thread(release.wait, deadline=0.05, name="slow")
    release.set()


async def test_an_error_in_a_thread_arrives_as_it_was_raised() -> None:
    def work() -> None:
        raise KeyError("which")

    with pytest.raises(KeyError, match="which"):
        await in_thread(work, deadline=5)


async def test_a_timeout_that_the_work_itself_raised_is_not_taken_for_the_deadline() -> None:
    def work() -> None:
        raise TimeoutError("the server's")

    with pytest.raises(TimeoutError, match="the server's"):
        await in_thread(work, deadline=5)
