"""Proof of life: pings for systemd and the progress file for boot-health, given only while every task gets on.

With `Type=notify` and `WatchdogSec=`, systemd restarts the agent when the pings stop (sd_notify(3)). A loop that hangs
stops them because the pinging is itself a task of the loop; a single hung task stops them because nobody pings for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from systemd import daemon

from compliance_agent.tasks import TaskReport

log = logging.getLogger(__name__)

PROGRESS_FILE = "progress"
PROGRESS_INTERVAL = 5.0
"""Seconds between two writings of the progress file."""


def watchdog_interval() -> float | None:
    """Seconds between pings: a third of what systemd allows (WATCHDOG_USEC); None when it does not watch us."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 3e6 if microseconds.isdigit() and int(microseconds) > 0 and for_us else None


def notify(state: str) -> None:
    """Tell the service manager, if one listens."""
    daemon.notify(state)


class Watchdog:
    """Pings while every task makes progress, and says which one does not when it stops."""

    def __init__(self, reports: Callable[[], Sequence[TaskReport]], progress_file: Path) -> None:
        self._reports = reports
        self._progress_file = progress_file
        self._written = float("-inf")
        self._silent = False

    async def run(self) -> None:
        """Look after the tasks for ever."""
        pause = min(watchdog_interval() or PROGRESS_INTERVAL, PROGRESS_INTERVAL)
        while True:
            self.look()
            await asyncio.sleep(pause)

    def look(self) -> bool:
        """One look: ping and write progress when all is well. Returns whether it was."""
        reports = self._reports()
        stuck = [report for report in reports if report.stuck]
        if stuck:
            self._complain(stuck)
            return False
        self._silent = False
        if time.monotonic() - self._written >= PROGRESS_INTERVAL - 0.1:
            self._write(reports)
        notify("WATCHDOG=1")
        return True

    def _complain(self, stuck: list[TaskReport]) -> None:
        if self._silent:
            return
        self._silent = True
        names = ", ".join(f"{report.name} ({report.error or 'no progress'})" for report in stuck)
        log.error("stuck: %s; no longer feeding the watchdog, systemd will restart the agent", names)
        notify(f"STATUS=Stuck: {names}")

    def _write(self, reports: Sequence[TaskReport]) -> None:
        """The progress file lives in /run (memory), so writing it does not wait for a disk."""
        now = time.monotonic()
        document = {
            "format": 1,
            "at": time.time(),
            "boottime": time.clock_gettime(time.CLOCK_BOOTTIME),
            "tasks": {
                report.name: {
                    "rounds": report.rounds,
                    "age": round(now - report.last_progress, 3),
                    "error": report.error[:300],
                }
                for report in reports
            },
        }
        temporary = self._progress_file.with_name(f".{self._progress_file.name}.new")
        try:
            temporary.write_bytes(msgspec.json.encode(document))
            temporary.chmod(0o644)
            temporary.replace(self._progress_file)
            self._written = now
        except OSError as error:
            log.warning("progress file %s: %s", self._progress_file, error)
