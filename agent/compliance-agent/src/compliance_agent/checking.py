"""Running checks: each in a thread with its own deadline, every failure turned into a verdict with its reason."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Sequence

from appliance_protocol.verdict import CheckResult, Verdict
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError
from compliance_agent.offload import DeadlineMissed, in_thread
from compliance_agent.privileged import PrivilegedFacts

log = logging.getLogger(__name__)

PARALLEL = 4
"""Checks that run at once: they mostly wait for the disk and the bus."""
UNDECIDED = frozenset({Verdict.ERROR, Verdict.UNKNOWN})
"""Verdicts that say nothing about the box yet."""
RETRIES = (15.0, 30.0, 60.0)
"""Seconds after which a check that could not tell looks again, the first, second and third time in a row; then its
interval holds. Much of what a check cannot tell is a box that is still starting."""


class CheckRunner:
    """Runs checks and remembers which ones never came back."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self.checks = tuple(checks)
        self._running: set[str] = set()
        self._privileged: set[str] = set()
        self._lock = threading.Lock()

    async def run(self, host: Host, checks: Sequence[Check] | None = None) -> list[CheckResult]:
        """The verdict of every check in `checks` (of all, when not given), by id. Raises nothing of the checks'."""
        gate = asyncio.Semaphore(PARALLEL)

        async def guarded(check: Check) -> CheckResult:
            async with gate:
                return await self._one(check, host)

        results = await asyncio.gather(*(guarded(check) for check in (self.checks if checks is None else checks)))
        return sorted(results, key=lambda result: result.check_id)

    def asked_for_privileged(self, check: Check) -> bool:
        """Whether the check has ever asked for what only root can read."""
        return check.id in self._privileged

    async def _one(self, check: Check, host: Host) -> CheckResult:
        try:
            finding = await self._finding(check, host)
            return check.result(finding, host.clock.read().wall)
        except CheckError as error:
            finding = _error(str(error), error.source or check.id)
        except DeadlineMissed as error:
            finding = _error(str(error), check.id)
        except Exception as error:
            log.warning("check %s raised", check.id, exc_info=error)
            finding = _error(f"the check broke down: {type(error).__name__}: {error}", check.id)
        return check.result(finding, host.clock.read().wall)

    async def _finding(self, check: Check, host: Host) -> Finding:
        if check.id in host.config.checks.disabled:
            return Finding(Verdict.NOT_SELECTED, "This site has switched the check off.", "checks.disabled")
        with self._lock:
            if check.id in self._running:
                raise CheckError("an earlier run of this check still hangs; restart the agent and report it", check.id)
            self._running.add(check.id)

        def privileged() -> PrivilegedFacts:
            with self._lock:
                self._privileged.add(check.id)
            return host.privileged()

        def work() -> Finding:
            try:
                return check.run(dataclasses.replace(host, read_privileged=privileged))
            finally:
                with self._lock:
                    self._running.discard(check.id)

        return await in_thread(work, deadline=check.deadline, name=check.id)


def _error(reason: str, source: str) -> Finding:
    return Finding(Verdict.ERROR, reason, source)


class Schedule:
    """Which checks are due, by the monotonic clock; a jump of the wall clock makes all of them due.

    A verdict taken in 1970 would be stale for ever after the clock is set, so it is taken again. A check that could
    not tell is due again soon (`RETRIES`).
    """

    JUMP = 60.0
    """Seconds by which the wall clock must move against the monotonic one to count as set anew."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._due = {check.id: float("-inf") for check in checks}
        self._checks = tuple(checks)
        self._interval = {check.id: check.interval for check in checks}
        self._undecided: dict[str, int] = {}
        self._offset: float | None = None

    def due(self, wall: float, monotonic: float) -> list[Check]:
        """The checks whose time has come."""
        offset = wall - monotonic
        if self._offset is not None and abs(offset - self._offset) > self.JUMP:
            self._due = dict.fromkeys(self._due, float("-inf"))
            self._undecided.clear()
        self._offset = offset
        return [check for check in self._checks if monotonic >= self._due[check.id]]

    def ran(self, results: Sequence[CheckResult], monotonic: float) -> None:
        """These checks ran at `monotonic` and said this."""
        for result in results:
            times = self._undecided.pop(result.check_id, 0)
            pause = self._interval[result.check_id]
            if result.verdict in UNDECIDED:
                self._undecided[result.check_id] = times + 1
                pause = min(pause, RETRIES[times]) if times < len(RETRIES) else pause
            self._due[result.check_id] = monotonic + pause

    def retried(self, check: Check) -> bool:
        """Whether the check could not tell when it last ran, and looks again before its interval is over."""
        return 0 < self._undecided.get(check.id, 0) <= len(RETRIES)

    def pause(self, monotonic: float, longest: float) -> float:
        """Seconds until the next check is due, at most `longest`."""
        soonest = min(self._due.values(), default=monotonic + longest)
        return max(0.1, min(longest, soonest - monotonic))
