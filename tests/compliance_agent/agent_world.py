"""What the agent's tests are made of: checks that say what they are told, a clock that can be set, whole agents."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from appliance_protocol.clock import ClockReading, ClockState
from appliance_protocol.verdict import Citation, Coverage, Framework, Verdict
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.config import CentralConfig, Config, EvidenceConfig, PathConfig
from compliance_agent.errors import CheckError
from compliance_agent.service import Agent

CITES = (Citation(Framework.HIPAA, "164.312(b)", "Audit controls", Coverage.PARTIAL, True),)


class SettableCheck(Check):
    """Says what the test set."""

    title = "A check of the tests"
    citations = CITES
    does_not_prove = "anything"
    remedy = "none"

    def __init__(self, check_id: str = "settable", verdict: Verdict = Verdict.PASS) -> None:
        self.id = check_id  # type: ignore[misc]
        self.verdict = verdict
        self.runs = 0

    def run(self, host: Host) -> Finding:
        self.runs += 1
        return Finding(self.verdict, f"It was set to {self.verdict.value}.", "the test", b"raw")


class SettableClock:
    """A clock the test moves; `wall` and `monotonic` go on by themselves from what was set."""

    def __init__(self, wall: float | None = None, state: ClockState = ClockState.SYNCHRONISED) -> None:
        self.state = state
        self._monotonic = 0.0
        self._offset = 0.0 if wall is None else wall - time.time()

    def set(self, wall: float, state: ClockState) -> None:
        self._offset, self.state = wall - time.time(), state

    def advance(self, seconds: float) -> None:
        self._offset += seconds
        self._monotonic += seconds

    def read(self) -> ClockReading:
        monotonic = time.monotonic() + self._monotonic
        return ClockReading(time.time() + self._offset, monotonic, "boot-of-the-test", self.state)


class NoBus:
    """A box without a system bus."""

    def property(self, service: str, path: str, interface: str, name: str) -> Any:
        raise CheckError("there is no bus", "D-Bus")

    def call(self, service: str, path: str, interface: str, method: str, *arguments: Any) -> Any:
        raise CheckError("there is no bus", "D-Bus")


def config_in(directory: Path, **tables: Any) -> Config:
    """A configuration whose every path is below `directory`."""
    for name in ("state", "runtime", "requests"):
        (directory / name).mkdir(exist_ok=True)
    paths = PathConfig(
        state=str(directory / "state"),
        runtime=str(directory / "runtime"),
        facts=str(directory / "facts.json"),
        update_status=str(directory / "status.json"),
        update_history=str(directory / "history.jsonl"),
        update_requests=str(directory / "requests"),
        scanner_socket=str(directory / "scanner.sock"),
    )
    central = CentralConfig(connect_timeout=2.0, read_timeout=2.0)
    config = Config(paths=paths, central=central, evidence=EvidenceConfig(change_spacing=1))
    return dataclasses.replace(config, **tables)


def agent_in(directory: Path, *checks: Check, clock: SettableClock | None = None, **tables: Any) -> Agent:
    """A whole agent that is not running: the test takes the rounds of its tasks by hand."""
    chosen = checks or (SettableCheck(),)
    return Agent(
        config_in(directory, **tables),
        clock=clock or SettableClock(),
        bus=NoBus(),
        checks=chosen,
        root=directory / "root",
    )
