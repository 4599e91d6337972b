"""Running the checks until they all pass at once, or the deadline does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from appliance_update.config import Gate
from appliance_update.gate.checks import Check
from appliance_update.host import Host

EVERY = 2.0
"""Seconds between two rounds."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says. `failures` maps a check's name to its sentence; `seconds` is how long it took."""

    passed: bool
    version: str
    boot_id: str
    at: float
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)
    counted: bool = False
    """Whether the loader counts this boot, so that the verdict decides about the version."""
    format: int = 1

    @property
    def reason(self) -> str:
        """The failures in one line."""
        return "; ".join(f"{name}: {sentence}" for name, sentence in self.failures.items())


def boot_clock() -> float:
    """Seconds since boot, suspend included: NTP may set the wall clock by decades in the middle of a gate."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def judge(
    gate: Gate,
    host: Host,
    checks: dict[str, Check],
    *,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = boot_clock,
) -> Verdict:
    """All checks, again and again, until one round is clean or `gate.deadline` seconds are over."""
    started = clock()
    while True:
        failures = round_of(gate, host, checks)
        spent = clock() - started
        if not failures or spent >= gate.deadline:
            return Verdict(
                not failures, host.image_version, host.boot_id(), time.time(), round(spent, 1), failures, host.counting
            )
        pause(EVERY)


def round_of(gate: Gate, host: Host, checks: dict[str, Check]) -> dict[str, str]:
    """Run every check once. A check that breaks has failed: unknown is never success."""
    failures = {}
    for name, check in checks.items():
        try:
            sentence = check(gate, host)
        except Exception as error:
            sentence = f"the check itself broke: {type(error).__name__}: {error}"[:500]
        if sentence:
            failures[name] = sentence
    return failures
