"""The real agent with one fault put in, so that the watchdog has something to find.

Run as a program: DIRECTORY FAULT [FILE]; the fault begins when FILE appears. Faults: `loop` (a task blocks the loop),
`task` (a task never ends and swallows its cancellation), `ended` (a task ends), `raises` (a task only fails), `none`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from compliance_agent.service import Agent
from tests.compliance_agent.agent_world import NoBus, SettableCheck, config_in


class FaultyAgent(Agent):
    """Its `results` task has the fault."""

    fault = "none"
    trigger = Path("/nonexistent")

    async def _results(self) -> float:  # type: ignore[override]
        if not self.trigger.exists():
            return 0.05
        if self.fault == "loop":
            while True:
                time.sleep(1)
        if self.fault == "task":
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    continue
        if self.fault == "ended":
            raise SystemExit
        if self.fault == "raises":
            raise ValueError("it only fails")
        return 0.05


if __name__ == "__main__":
    directory, FaultyAgent.fault, FaultyAgent.trigger = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    agent = FaultyAgent(config_in(directory), bus=NoBus(), checks=(SettableCheck(),), root=directory)
    for task in agent.tasks.values():
        task.deadline, task._grace = 0.5, 0.5
    asyncio.run(agent.run())
