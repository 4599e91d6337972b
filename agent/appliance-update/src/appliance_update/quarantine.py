"""Versions that failed here. One is offered again after 1, 4 and 16 days; then, or once marked bad, never again.

A fixed build has a higher version and waits for nothing.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from appliance_update.clock import spoken
from appliance_update.files import Unreadable, decode, read_limited, set_aside, write_json

LIMIT = 1024 * 1024
DAY = 86400.0
OFFERED_AGAIN = 3
"""How often a version that failed may be tried again."""


@dataclass(frozen=True)
class Failure:
    """Why and when (seconds since the epoch) a version was put away, how often it has failed, and in which attempt.

    `final`: marked bad by hand, or bad after it had been good; it is never offered again.
    """

    reason: str
    at: float
    failures: int = 1
    final: bool = False
    attempt: str = ""

    def until(self) -> float | None:
        """From when on it may be offered again; None for never."""
        if self.final or self.failures > OFFERED_AGAIN:
            return None
        return self.at + DAY * 4.0 ** (self.failures - 1)

    def holds(self, now: float) -> bool:
        """Whether it is put away at this time."""
        until = self.until()
        return until is None or now < until

    def sentence(self) -> str:
        """The reason, and for how long."""
        until = self.until()
        return f"{self.reason} ({f'not again before {spoken(until)}' if until else 'for good'})"


@dataclass(frozen=True)
class Quarantine:
    """Version to failure."""

    format: int = 1
    versions: dict[str, Failure] = field(default_factory=dict)


def load(path: Path) -> Quarantine:
    """The quarantine; empty when there is none. An unreadable one is set aside: spent boot entries still tell."""
    try:
        return decode(read_limited(path, LIMIT), Quarantine, str(path))
    except FileNotFoundError:
        return Quarantine()
    except (Unreadable, OSError):
        with contextlib.suppress(OSError):
            set_aside(path)
        return Quarantine()


def add(path: Path, version: str, reason: str, at: float, *, attempt: str = "", final: bool = False) -> None:
    """Put a version away. The same attempt told twice is one failure. Raises `OSError`."""
    current = load(path)
    known = current.versions.get(version)
    if known is not None and known.attempt == attempt and (known.final or not final):
        return
    failures = known.failures + 1 if known and known.attempt != attempt else 1
    failure = Failure(reason, at, failures, final or bool(known and known.final), attempt)
    write_json(path, replace(current, versions={**current.versions, version: failure}))


def held(path: Path, now: float) -> dict[str, Failure]:
    """The versions that are put away at this (trusted) time."""
    return {version: failure for version, failure in load(path).versions.items() if failure.holds(now)}


def mend(path: Path, now: float) -> None:
    """Let a failure that lies in the future begin now: a clock that ran ahead wrote it. Raises `OSError`."""
    current = load(path)
    if any(failure.at > now for failure in current.versions.values()):
        versions = {version: replace(failure, at=min(failure.at, now)) for version, failure in current.versions.items()}
        write_json(path, replace(current, versions=versions))
