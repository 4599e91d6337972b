"""The agent's tasks: each at its own pace, with its own deadline, and all of them under the watchdog's eye.

A task that raises has failed, says why, and runs again at its next turn: failing is progress. A task that misses its
deadline, swallows its cancellation or ends altogether makes none, and after a grace the watchdog is no longer fed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)

GRACE = 15.0
"""Seconds beyond its due time that a task may take to show progress: two slow cores, swapping, a busy disk."""
RETRY_PAUSE = 1.0
"""Seconds before a task that missed its deadline is tried again."""


@dataclass(frozen=True)
class TaskReport:
    """How a task is doing, as the progress file and the status show it."""

    name: str
    rounds: int
    last_progress: float
    """Seconds since this boot's start of counting (time.monotonic)."""
    stuck: bool
    error: str


class Task:
    """One repeating piece of work on the loop.

    `work` does one round and may return the seconds until the next one; else `interval` holds. `deadline` is the time
    one round may take, in seconds.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[float | None]],
        *,
        interval: float,
        deadline: float,
        grace: float = GRACE,
    ) -> None:
        self.name = name
        self.interval = interval
        self.deadline = deadline
        self.error = ""
        self.rounds = 0
        self._work = work
        self._grace = grace
        self._wake = asyncio.Event()
        self._round_done = asyncio.Condition()
        self._started_rounds = 0
        self._last_progress = time.monotonic()
        self._due = self._last_progress + deadline
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin with the first round."""
        self._last_progress = time.monotonic()
        self._due = self._last_progress + self.deadline
        self._task = asyncio.create_task(self._run(), name=self.name)

    def wake(self) -> None:
        """Begin the next round now, or right after the running one."""
        self._wake.set()

    async def run_now(self) -> str:
        """Wake the task and wait for a round that began after this call. Returns its error, empty when it was good."""
        wanted = self._started_rounds + 1
        self.wake()
        async with self._round_done:
            await self._round_done.wait_for(lambda: self.rounds >= wanted)
        return self.error

    async def stop(self, patience: float = 2.0) -> None:
        """End the task; one that does not let itself be ended within `patience` seconds is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=patience)

    def report(self, now: float | None = None) -> TaskReport:
        """How it is doing."""
        now = time.monotonic() if now is None else now
        ended = self._task is not None and self._task.done()
        stuck = ended or now > self._due + self._grace
        return TaskReport(self.name, self.rounds, self._last_progress, stuck, self.error)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            pause = await self._round()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _round(self) -> float:
        self._started_rounds += 1
        number = self._started_rounds
        pause: float | None = None
        timeout = asyncio.timeout(self.deadline)
        try:
            async with timeout:
                pause = await self._work()
            self._note("")
        except TimeoutError as error:
            if timeout.expired():
                self._note(f"did not finish within {self.deadline:g} s")
                await self._finished(number)
                return RETRY_PAUSE
            self._note(str(error) or repr(error))
        except Exception as error:
            self._note(str(error) or repr(error), error)
        pause = self.interval if pause is None else pause
        self._last_progress = time.monotonic()
        self._due = self._last_progress + pause + self.deadline
        await self._finished(number)
        return pause

    async def _finished(self, number: int) -> None:
        async with self._round_done:
            self.rounds = number
            self._round_done.notify_all()

    def _note(self, error: str, raised: Exception | None = None) -> None:
        if error and error != self.error:
            expected = raised is None or type(raised).__module__.startswith("compliance_agent")
            log.warning("%s: %s", self.name, error, exc_info=None if expected else raised)
        elif self.error and not error:
            log.info("%s: works again", self.name)
        self.error = error
