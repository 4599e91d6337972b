"""Having the privileged facts collected anew, through systemd."""

from __future__ import annotations

import time
from pathlib import Path

from compliance_agent.checks.base import Bus
from compliance_agent.privileged import UNIT

SYSTEMD = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
FRESH = 30.0
"""Seconds for which facts are as good as new."""
PATIENCE = 10.0
"""Seconds to wait for the collector; after that the older facts have to do."""


def refresh(bus: Bus, facts_file: Path) -> bool:
    """Start the collector and wait until it has written. Blocks; returns whether the facts are new.

    polkit lets the agent's user start this one unit. Raises `CheckError` when systemd does not.
    """
    before = _written(facts_file)
    if before is not None and 0 <= time.time() - before < FRESH:
        return True
    bus.call(*SYSTEMD, "StartUnit", UNIT, "replace")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if _written(facts_file) != before:
            return True
        time.sleep(0.1)
    return False


def _written(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
