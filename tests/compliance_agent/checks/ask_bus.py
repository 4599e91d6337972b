"""Runs checks with the agent's own bus client and prints their verdicts. A program: a process has one system bus."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from compliance_agent.bus import SystemBus
from compliance_agent.checks.base import Host, discover
from compliance_agent.config import Config
from compliance_agent.privileged import read_facts
from tests.compliance_agent.checks import recorded

host = Host(Path(sys.argv[1]), Config(), recorded.StoppedClock(), SystemBus(), lambda: read_facts(recorded.NOW))
found = {check.id: recorded.look(check, host) for check in discover() if check.id in sys.argv[2:]}
print(json.dumps({check_id: [finding.verdict, finding.reason] for check_id, finding in found.items()}))
