"""A check that could not tell looks again soon, with back-off, and on facts that root collected anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.clock import ClockReading, ClockState
from appliance_protocol.evidence import EvidenceCause
from appliance_protocol.verdict import CheckResult, Verdict
from compliance_agent.checking import RETRIES, Schedule
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.checks.certificate_expiry import CertificateExpiry
from compliance_agent.collect import write
from compliance_agent.privileged import CertificateFacts, PrivilegedFacts
from compliance_agent.service import Agent
from tests.compliance_agent.agent_world import NoBus, SettableCheck, SettableClock, agent_in
from tests.compliance_agent.central_peer import DEVICE, CentralPeer
from tests.compliance_agent.test_service import enrolled

DAY = 86400.0


def said(check: Check, verdict: Verdict) -> list[CheckResult]:
    return [check.result(Finding(verdict, "said by the test", "the test"), 0.0)]


def next_look(schedule: Schedule, check: Check, after: float) -> float:
    """Seconds from `after` to the moment the check is due."""
    return next(pause for pause in range(1, 1000) if schedule.due(after + pause, after + pause) == [check])


@pytest.mark.parametrize("verdict", [Verdict.ERROR, Verdict.UNKNOWN])
def test_a_check_that_cannot_tell_looks_again_soon_and_ever_later_then_at_its_interval(verdict: Verdict) -> None:
    check, now, pauses = SettableCheck(), 0.0, []
    schedule = Schedule([check])
    for _ in range(5):
        schedule.ran(said(check, verdict), now)
        pauses.append(next_look(schedule, check, now))
        now += pauses[-1]
    assert pauses == [15, 30, 60, check.interval, check.interval]


@pytest.mark.parametrize("verdict", sorted(set(Verdict) - {Verdict.ERROR, Verdict.UNKNOWN}))
def test_a_check_that_could_tell_keeps_its_interval_and_may_be_puzzled_anew(verdict: Verdict) -> None:
    check = SettableCheck()
    schedule = Schedule([check])
    for _ in range(2):
        schedule.ran(said(check, Verdict.ERROR), 0.0)
    schedule.ran(said(check, verdict), 0.0)
    assert next_look(schedule, check, 0.0) == check.interval
    schedule.ran(said(check, Verdict.ERROR), 0.0)
    assert next_look(schedule, check, 0.0) == RETRIES[0]


@given(st.lists(st.sampled_from(sorted(Verdict)), min_size=1, max_size=20), st.floats(1.0, 600.0))
def test_no_check_ever_waits_longer_than_its_interval(verdicts: list[Verdict], interval: float) -> None:
    check = SettableCheck()
    check.interval = interval  # type: ignore[misc]
    schedule = Schedule([check])
    for verdict in verdicts:
        schedule.ran(said(check, verdict), 0.0)
        assert schedule.due(interval, interval) == [check]


async def test_only_the_check_that_could_not_tell_looks_again(tmp_path: Path) -> None:
    lost, fine = SettableCheck("lost", Verdict.ERROR), SettableCheck("fine")
    agent = agent_in(tmp_path, lost, fine)
    await agent._checks()
    assert isinstance(agent.clock, SettableClock)
    agent.clock.advance(RETRIES[0] + 1)
    await agent._checks()
    assert (lost.runs, fine.runs) == (2, 1)


async def test_looking_again_in_vain_writes_no_evidence_and_finding_out_does(
    tmp_path: Path, central: CentralPeer
) -> None:
    check = SettableCheck(verdict=Verdict.UNKNOWN)
    agent = await enrolled(tmp_path, central, check)
    assert isinstance(agent.clock, SettableClock)
    for verdict in (Verdict.UNKNOWN, Verdict.UNKNOWN, Verdict.PASS):
        check.verdict = verdict
        await agent._evidence()
        agent.clock.advance(max(RETRIES) + 1)
        await agent._checks()
    await agent._evidence()
    assert check.runs == 4
    causes = [entry.cause for entry in reversed(agent.ledger.entries(DEVICE))]
    assert causes == [EvidenceCause.START, EvidenceCause.CHANGE]
    history = agent.store.history(check.id, 10)
    assert [result.verdict for result in history] == [Verdict.PASS, Verdict.UNKNOWN]


# -- what only root can read --


class CollectingBus(NoBus):
    """A service manager that runs the collector when it is asked to, on a box that has its certificate by then."""

    def __init__(self) -> None:
        self.agent: Agent | None = None
        self.asked = 0

    def call(self, service: str, path: str, interface: str, method: str, *arguments: Any) -> Any:
        assert (method, arguments[0]) == ("StartUnit", "compliance-agent-collect.service")
        assert self.agent is not None
        self.asked += 1
        wall = self.agent.clock.read().wall
        leaf = CertificateFacts("/var/lib/local-portal/server.pem", "CN=box", wall - DAY, wall + 90 * DAY)
        collect(self.agent, leaf)


def collect(agent: Agent, *certificates: CertificateFacts, age: float = 0.0) -> None:
    """Leave the facts that the collector would leave."""
    now = agent.clock.read()
    seen = ClockReading(now.wall, now.monotonic, now.boot_id, ClockState.SYNCHRONISED)
    agent._facts_file.parent.mkdir(parents=True, exist_ok=True)
    write(PrivilegedFacts(seen, certificates=certificates), agent._facts_file)
    made = agent._facts_file.stat().st_mtime - age
    os.utime(agent._facts_file, (made, made))


async def test_certificates_made_after_the_collector_ran_are_seen_at_the_next_look(tmp_path: Path) -> None:
    bus = CollectingBus()
    agent = agent_in(tmp_path, CertificateExpiry())
    agent.bus, bus.agent = bus, agent
    collect(agent, age=60)
    await agent._checks()
    assert agent.state.latest["certificate-expiry"].verdict is Verdict.UNKNOWN
    assert bus.asked == 0
    assert isinstance(agent.clock, SettableClock)
    agent.clock.advance(RETRIES[0] + 1)
    await agent._checks()
    assert agent.state.latest["certificate-expiry"].verdict is Verdict.PASS
    assert bus.asked == 1


async def test_a_check_that_reads_nothing_of_roots_does_not_wake_the_collector(tmp_path: Path) -> None:
    bus = CollectingBus()
    agent = agent_in(tmp_path, SettableCheck(verdict=Verdict.ERROR))
    agent.bus, bus.agent = bus, agent
    assert isinstance(agent.clock, SettableClock)
    for _ in range(3):
        await agent._checks()
        agent.clock.advance(max(RETRIES) + 1)
    assert bus.asked == 0


class Privileged(SettableCheck):
    """Notes the facts it was given."""

    def __init__(self, check_id: str) -> None:
        super().__init__(check_id)
        self.seen: list[PrivilegedFacts] = []

    def run(self, host: Host) -> Finding:
        self.seen.append(host.privileged())
        return super().run(host)


async def test_all_checks_of_a_pass_judge_the_same_facts_and_the_next_pass_reads_them_anew(tmp_path: Path) -> None:
    checks = [Privileged(f"privileged-{number}") for number in range(3)]
    agent = agent_in(tmp_path, *checks)
    for _ in range(2):
        collect(agent)
        await agent._run_pass(checks)
    firsts, seconds = ([check.seen[number] for check in checks] for number in (0, 1))
    assert firsts == [firsts[0]] * 3
    assert seconds == [seconds[0]] * 3
    assert firsts[0].collected != seconds[0].collected
