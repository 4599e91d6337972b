"""The real agent, in a hurry: a bundle at every turn of the loop, so that a kill has something to interrupt.

Run as a program: STATE-DIRECTORY is where its world is. Prints a line for each bundle after it is on disk.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from appliance_protocol.evidence import EvidenceCause
from compliance_agent.service import Agent
from tests.compliance_agent.agent_world import NoBus, SettableCheck, config_in


class HastyAgent(Agent):
    """Writes whenever it may."""

    async def _evidence(self) -> float:  # type: ignore[override]
        if self.key is None or self.state.enrolment is None:
            return 0.02
        entry = await self.writer.write(EvidenceCause.CHANGE, self.key)
        print(entry.sequence, entry.digest, flush=True)
        return 0.0


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    asyncio.run(HastyAgent(config_in(directory), bus=NoBus(), checks=(SettableCheck(),), root=directory).run())
