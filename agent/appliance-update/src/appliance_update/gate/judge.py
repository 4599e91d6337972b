"""Running the checks until they all pass at once, until one is hopeless, or until the deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from appliance_update.clock import boot_clock
from appliance_update.config import Config
from appliance_update.gate.checks import Check, Hopeless
from appliance_update.host import Host

EVERY = 2.0
"""Seconds between two rounds."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says. `failures` maps a check's name to its sentence; `seconds` is how long it took.

    `advice` is what is remarkable and decides nothing; `early` says that waiting on would have been in vain.
    """

    passed: bool
    version: str
    boot_id: str
    at: float
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)
    counted: bool = False
    """Whether the loader counts this boot, so that the verdict decides about the version."""
    advice: dict[str, str] = field(default_factory=dict)
    early: bool = False
    format: int = 1

    @property
    def reason(self) -> str:
        """The failures in one line."""
        return "; ".join(f"{name}: {sentence}" for name, sentence in self.failures.items())


def judge(
    config: Config,
    host: Host,
    checks: Mapping[str, Check],
    *,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = boot_clock,  # NTP may set the wall clock by decades in the middle of a gate
) -> Verdict:
    """All checks, again and again: good when one round is clean, bad at the first `Hopeless` or at the deadline."""
    started = clock()
    while True:
        failures = round_of(config, host, checks)
        hopeless = any(isinstance(sentence, Hopeless) for sentence in failures.values())
        spent = clock() - started
        if not failures or hopeless or spent >= config.gate.deadline:
            said = {name: str(sentence) for name, sentence in failures.items()}
            return Verdict(
                passed=not said,
                version=host.image_version,
                boot_id=host.boot_id(),
                at=time.time(),
                seconds=round(spent, 1),
                failures=said,
                counted=host.counting,
                early=hopeless,
            )
        pause(EVERY)


def round_of(config: Config, host: Host, checks: Mapping[str, Check]) -> dict[str, str]:
    """Run every check once. A check that breaks has failed: unknown is never success."""
    failures = {}
    for name, check in checks.items():
        try:
            sentence = check(config, host)
        except Exception as error:
            sentence = f"the check itself broke: {type(error).__name__}: {error}"[:500]
        if sentence:
            failures[name] = sentence
    return failures
