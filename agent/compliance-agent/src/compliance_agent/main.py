"""Starting the service: configuration, log, directories, loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from pathlib import Path

from compliance_agent import __version__, config_file
from compliance_agent.service import Agent

log = logging.getLogger(__name__)

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""syslog's levels, as sd-daemon(3) wants them before each line."""


class _Journal(logging.Formatter):
    """Lines for the journal, each with its priority; on a terminal with the level's name."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")
        self._journal = bool(os.environ.get("JOURNAL_STREAM"))

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("compliance_agent.", "", 1)
        prefix = f"<{PRIORITIES.get(record.levelno, 6)}>" if self._journal else f"{record.levelname.lower():8}"
        return "\n".join(prefix + line for line in text.splitlines())


def serve(path: Path) -> None:
    """Run the service with the configuration in `path` until SIGTERM."""
    reading = config_file.load_leniently(path)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Journal())
    logging.basicConfig(level=reading.config.log_level.upper(), handlers=[handler])
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # what it says, Central's errors say better
    for warning in reading.warnings:
        log.warning("%s", warning)
    for error in reading.errors:
        log.error("%s", error)
    os.umask(0o027)
    for directory in (reading.config.state, reading.config.runtime):
        directory.mkdir(parents=True, exist_ok=True)
    log.info("compliance-agent %s begins", __version__)
    asyncio.run(_run(reading))


async def _run(reading: config_file.Reading) -> None:
    agent = Agent(reading.config, problems=reading.errors)
    gc.collect()
    gc.freeze()
    await agent.run()
