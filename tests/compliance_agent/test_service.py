"""The agent as a whole, against a real server: enrol, check in, evidence, orders, and everything that goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance_protocol.clock import ClockState
from appliance_protocol.evidence import ChainHead, EvidenceBundle, EvidenceCause, verify_chain
from appliance_protocol.local import LocalServiceError, request
from appliance_protocol.local_models import AgentStatus
from appliance_protocol.orders import OrderState
from appliance_protocol.verdict import Verdict
from appliance_protocol.wire import decode
from compliance_agent.central import CentralError, Untrusted
from compliance_agent.database import StoreError, StoreFull
from compliance_agent.enrolling import enrol
from compliance_agent.identity import Invitation
from compliance_agent.service import Agent
from tests.compliance_agent.agent_world import SettableCheck, SettableClock, agent_in, config_in
from tests.compliance_agent.central_peer import CODE, DEVICE, CentralPeer


async def enrolled(directory: Path, central: CentralPeer, *checks: SettableCheck, **tables: object) -> Agent:
    """An agent that has its place, its key and one pass of checks behind it."""
    agent = agent_in(directory, *checks, **tables)  # type: ignore[arg-type]
    invitation = Invitation(central.url, CODE.lower(), central.ca_file.read_text())
    enrol(agent.config.central, agent.identity, invitation, agent.clock)
    await agent._identity()
    await agent._checks()
    return agent


def bundles(central: CentralPeer) -> list[EvidenceBundle]:
    return [decode(envelope.payload_bytes, EvidenceBundle) for envelope in central.bundles]


async def drain(agent: Agent) -> None:
    while await agent._upload() is not None:
        pass


async def carry_out(agent: Agent) -> None:
    while await agent._orders() is not None:
        pass
    while await agent._results() is not None:
        pass


def assert_intact(central: CentralPeer) -> None:
    assert central.device_key is not None
    report = verify_chain(central.bundles, DEVICE, [central.device_key])
    assert report.intact, report.findings
    assert central.faults == []


async def test_a_device_enrols_checks_in_and_its_evidence_arrives(tmp_path: Path, central: CentralPeer) -> None:
    agent = await enrolled(tmp_path, central)
    await agent._evidence()
    await agent._check_in()
    await drain(agent)
    assert [bundle.cause for bundle in bundles(central)] == [EvidenceCause.START]
    assert central.checkins[0].score.conforming == 1
    assert central.checkins[0].verdicts == {"settable": "pass"}
    assert agent.state.pending == 0
    assert_intact(central)


async def test_an_accepted_check_in_leaves_its_time_and_a_refused_one_does_not(
    tmp_path: Path, central: CentralPeer
) -> None:
    """The updater's watch reads it: a sign of life that needs no socket and no parser."""
    agent = await enrolled(tmp_path, central)
    mark = agent.config.state / "last-checkin"
    await agent._check_in()
    os.utime(mark, (1.0, 1.0))
    central.mood = lambda path: (503, "text/plain", b"down")
    with pytest.raises(CentralError):
        await agent._check_in()
    assert mark.stat().st_mtime == 1.0


async def test_an_enrolment_by_the_command_line_takes_effect_in_the_running_service(
    tmp_path: Path, central: CentralPeer
) -> None:
    agent = agent_in(tmp_path)
    await agent._identity()
    assert not agent.status().enrolled
    enrol(agent.config.central, agent.identity, Invitation(central.url, CODE, central.ca_file.read_text()), agent.clock)
    await agent._identity()
    assert agent.status().device_id == DEVICE


async def test_a_credential_enrols_at_the_first_start(
    tmp_path: Path, central: CentralPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = central.ca_file.read_text()
    (tmp_path / "compliance-agent.enrolment").write_text(f'url = "{central.url}"\ncode = "{CODE}"\nca = """{ca}"""\n')
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    agent = agent_in(tmp_path)
    await agent._identity()
    assert agent.state.enrolment is not None
    assert agent.state.enrolment.site_name == "Test clinic"


async def test_a_wrong_code_is_told_and_tried_again_later(
    tmp_path: Path, central: CentralPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = central.ca_file.read_text()
    (tmp_path / "compliance-agent.enrolment").write_text(f'url = "{central.url}"\ncode = "XXXX"\nca = """{ca}"""\n')
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    agent = agent_in(tmp_path)
    with pytest.raises(CentralError, match="the enrolment code is not valid: ask for a new one"):
        await agent._identity()
    assert agent._enrol_pause == 300


async def test_evidence_is_written_when_a_verdict_changes_and_not_when_only_time_passes(
    tmp_path: Path, central: CentralPeer
) -> None:
    check = SettableCheck()
    agent = await enrolled(tmp_path, central, check)
    clock = agent.clock
    assert isinstance(clock, SettableClock)
    for verdict in (Verdict.PASS, Verdict.PASS, Verdict.FAIL, Verdict.FAIL):
        check.verdict = verdict
        await agent._evidence()
        clock.advance(301)
        await agent._checks()
    await agent._evidence()
    entries = agent.ledger.entries(DEVICE)
    assert [entry.cause for entry in reversed(entries)] == [EvidenceCause.START, EvidenceCause.CHANGE]


async def test_evidence_is_written_every_hour(tmp_path: Path, central: CentralPeer) -> None:
    agent = await enrolled(tmp_path, central)
    clock = agent.clock
    assert isinstance(clock, SettableClock)
    for _ in range(3):
        await agent._evidence()
        clock.advance(3600)
    causes = [entry.cause for entry in reversed(agent.ledger.entries(DEVICE))]
    assert causes == [EvidenceCause.START, EvidenceCause.SCHEDULE, EvidenceCause.SCHEDULE]


async def test_uplink_gone_then_back_loses_and_doubles_nothing(tmp_path: Path, central: CentralPeer) -> None:
    agent = await enrolled(tmp_path, central)
    assert agent.key is not None
    central.mood = lambda path: (503, "text/plain", b"down")
    for _ in range(120):
        await agent.writer.write(EvidenceCause.CHANGE, agent.key)
    with pytest.raises(CentralError):
        await agent._check_in()
    assert agent.status().queue.pending == 120
    central.mood = lambda path: None
    await agent._check_in()
    await drain(agent)
    assert [bundle.sequence for bundle in bundles(central)] == list(range(1, 121))
    assert agent.status().queue.pending == 0
    assert_intact(central)


async def test_an_answer_lost_on_the_way_doubles_nothing(tmp_path: Path, central: CentralPeer) -> None:
    agent = await enrolled(tmp_path, central)
    await agent._evidence()
    await agent._check_in()
    central.lose_answer = lambda path: path.endswith("evidence")
    with pytest.raises(CentralError):
        await agent._upload()
    assert len(central.bundles) == 1
    central.lose_answer = lambda path: False
    await drain(agent)
    assert len(central.bundles) == 1
    assert agent.state.pending == 0
    assert_intact(central)


async def test_refused_evidence_stays_and_is_told(tmp_path: Path, central: CentralPeer) -> None:
    agent = await enrolled(tmp_path, central)
    await agent._evidence()
    await agent._check_in()
    central.head = ChainHead(0, "f" * 64)
    with pytest.raises(CentralError, match="refused evidence after sequence 0"):
        await agent._upload()
    assert agent.state.pending == 1
    central.head = ChainHead()
    await agent._check_in()
    await drain(agent)
    assert agent.state.pending == 0


async def test_a_server_restored_from_a_backup_gets_its_evidence_again(tmp_path: Path, central: CentralPeer) -> None:
    agent = await enrolled(tmp_path, central)
    assert agent.key is not None
    for _ in range(4):
        await agent.writer.write(EvidenceCause.CHANGE, agent.key)
    await agent._check_in()
    await drain(agent)
    digest = agent.ledger.digest_at(DEVICE, 2)
    assert digest is not None
    central.bundles, central.head = central.bundles[:2], ChainHead(2, digest)
    await agent._check_in()
    await drain(agent)
    assert [bundle.sequence for bundle in bundles(central)] == [1, 2, 3, 4]
    assert_intact(central)


async def test_a_device_set_back_in_time_goes_on_where_the_server_is(tmp_path: Path, central: CentralPeer) -> None:
    agent = await enrolled(tmp_path, central)
    assert agent.key is not None
    for _ in range(3):
        await agent.writer.write(EvidenceCause.CHANGE, agent.key)
    await agent._check_in()
    await drain(agent)
    agent.ledger.database.close()
    for file in (tmp_path / "state").glob("evidence.db*"):
        file.unlink()
    again = agent_in(tmp_path)
    await again._identity()
    await again._checks()
    await again._evidence()  # bundle 1 of a second chain: the fork
    assert again.state.evidence_head.sequence == 1
    await again._check_in()
    await drain(again)
    assert [bundle.sequence for bundle in bundles(central)] == [1, 2, 3, 4]
    assert bundles(central)[3].cause is EvidenceCause.START
    assert_intact(central)


async def test_a_replayed_answer_is_refused(tmp_path: Path, central: CentralPeer) -> None:
    agent = await enrolled(tmp_path, central)
    kept: list[object] = []
    central.mangle = lambda path, envelope: (kept.append(envelope), kept[0])[1]  # type: ignore[func-returns-value,return-value]
    await agent._check_in()
    before = agent.state.last_checkin_at
    with pytest.raises(Untrusted, match="repeats old answers"):
        await agent._check_in()
    assert agent.state.last_checkin_at == before


async def test_a_checkin_number_is_never_used_twice_even_when_the_state_is_set_back(
    tmp_path: Path, central: CentralPeer
) -> None:
    agent = await enrolled(tmp_path, central)
    for _ in range(3):
        await agent._check_in()
    agent.ledger.database.close()
    for file in (tmp_path / "state").glob("evidence.db*"):
        file.unlink()
    clock = agent.clock
    assert isinstance(clock, SettableClock)
    clock.advance(60)
    again = agent_in(tmp_path, clock=clock)
    await again._identity()
    await again._check_in()
    numbers = [checkin.number for checkin in central.checkins]
    assert numbers == sorted(set(numbers))


async def test_a_box_that_wakes_in_1970_says_so_and_recovers(tmp_path: Path, central: CentralPeer) -> None:
    clock = SettableClock(wall=100.0, state=ClockState.UNSYNCHRONISED)
    check = SettableCheck()
    agent = agent_in(tmp_path, check, clock=clock)
    enrol(agent.config.central, agent.identity, Invitation(central.url, CODE, central.ca_file.read_text()), clock)
    await agent._identity()
    await agent._checks()
    await agent._evidence()
    await agent._check_in()
    assert central.checkins[0].clock.state is ClockState.UNSYNCHRONISED
    clock.set(time.time(), ClockState.SYNCHRONISED)
    clock.advance(61)
    assert agent.status().score.conforming == 0  # the verdict of 1970 is long stale
    await agent._checks()
    assert agent.status().score.conforming == 1
    await agent._evidence()
    await agent._check_in()
    await drain(agent)
    states = [bundle.clock.state for bundle in bundles(central)]
    assert states == [ClockState.UNSYNCHRONISED, ClockState.SYNCHRONISED]
    assert central.checkins[1].number > central.checkins[0].number
    assert_intact(central)


async def test_a_wrong_clock_prunes_nothing(tmp_path: Path, central: CentralPeer) -> None:
    agent = await enrolled(tmp_path, central)
    await agent._evidence()
    await agent._evidence()
    await agent._check_in()
    await drain(agent)
    assert agent.key is not None
    await agent.writer.write(EvidenceCause.CHANGE, agent.key)
    await agent._check_in()
    await drain(agent)
    clock = agent.clock
    assert isinstance(clock, SettableClock)
    clock.set(time.time() + 80 * 365 * 86400, ClockState.SYNCHRONISED)
    await agent._prune()
    assert len(agent.ledger.entries(DEVICE)) == 2


async def test_orders_are_carried_out_once_and_their_results_reported_once(
    tmp_path: Path, central: CentralPeer
) -> None:
    check = SettableCheck()
    agent = await enrolled(tmp_path, central, check)
    central.order("order-1", "run_checks")
    await agent._check_in()
    await agent._check_in()  # the server repeats an order until it has the result
    await carry_out(agent)
    assert [result.state for result in central.results] == [OrderState.COMPLETED]
    assert check.runs == 2
    assert agent.ledger.entries(DEVICE)[0].cause is EvidenceCause.ORDER
    await agent._check_in()  # it lost the result and asks again
    await carry_out(agent)
    assert [result.order_id for result in central.results] == ["order-1", "order-1"]
    assert check.runs == 2


async def test_force_checkin_checks_in_while_the_loop_runs(tmp_path: Path, central: CentralPeer) -> None:
    agent = await enrolled(tmp_path, central)
    for name in ("check-in", "orders", "results"):
        agent.tasks[name].start()
    central.order("order-2", "force_checkin")
    await agent.check_in()
    async with asyncio.timeout(10):
        while not central.results:
            await asyncio.sleep(0.05)
    assert central.results[0].state is OrderState.COMPLETED
    assert len(central.checkins) >= 2
    for task in agent.tasks.values():
        await task.stop()


async def test_a_full_disk_is_told_and_what_was_written_stays(tmp_path: Path, central: CentralPeer) -> None:
    agent = await enrolled(tmp_path, central)
    await agent._evidence()
    with agent.ledger.database._guarded() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}").fetchall()
    assert agent.key is not None
    with pytest.raises(StoreFull, match="the state disk is full"):
        for _ in range(50):
            await agent.writer.write(EvidenceCause.CHANGE, agent.key)
    await agent._check_in()
    await drain(agent)
    with agent.ledger.database._guarded() as connection:
        connection.execute("PRAGMA max_page_count=1000000").fetchall()
    await agent.writer.write(EvidenceCause.CHANGE, agent.key)
    await drain(agent)
    assert central.bundles
    assert_intact(central)
    assert agent.ledger.head(DEVICE) == central.head


async def test_with_a_full_disk_the_agent_says_so_checks_in_sends_what_it_has_and_recovers(
    small_disk: Path, central: CentralPeer
) -> None:
    agent = await enrolled(small_disk, central)
    await agent._evidence()
    assert agent.key is not None
    for _ in range(5):
        await agent.writer.write(EvidenceCause.CHANGE, agent.key)
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass
    central.order("order-1", "run_checks")
    clock = agent.clock
    assert isinstance(clock, SettableClock)
    with contextlib.suppress(StoreFull):
        for _ in range(500):  # until the log's own room is used up
            await agent.writer.write(EvidenceCause.CHANGE, agent.key)
    for name in ("checks", "evidence", "check-in", "upload", "orders"):
        agent.tasks[name].start()
    clock.advance(4000)
    await until(lambda: any("the state disk is full" in problem for problem in agent.problems()))
    await until(lambda: len(central.checkins) >= 1 and len(central.bundles) >= 6)
    assert agent.status().score.conforming == 1
    assert not any(task.report().stuck for task in agent.tasks.values())
    sent = len(central.bundles)
    ballast.unlink()
    clock.advance(4000)
    for name in ("checks", "evidence", "check-in", "orders"):
        agent.tasks[name].wake()
    await until(lambda: len(central.bundles) > sent)
    await agent.check_in()
    await until(lambda: not any("full" in problem for problem in agent.problems()), "full")
    for task in agent.tasks.values():
        await task.stop()
    assert agent.ledger.head(DEVICE).sequence >= sent + 1
    assert_intact(central)


async def test_a_box_that_starts_with_a_full_disk_still_checks_in_and_tells_it(
    small_disk: Path, central: CentralPeer
) -> None:
    first = await enrolled(small_disk, central)
    await first._evidence()
    first.store.database.close()
    first.ledger.database.close()
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass
    agent = agent_in(small_disk)
    await agent.load()
    with pytest.raises(StoreError, match="full"):
        await agent._identity()
    with pytest.raises(StoreError, match="full"):
        await agent._check_in()
    assert any("full" in problem for problem in central.checkins[-1].problems)
    ballast.unlink()
    await agent._identity()
    await agent._checks()
    await agent._evidence()
    await agent._check_in()
    await drain(agent)
    assert [bundle.sequence for bundle in bundles(central)] == [1, 2]
    assert_intact(central)


def test_the_real_program_starts_in_1970_and_says_so(tmp_path: Path) -> None:
    library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
    if library is None:
        pytest.skip("libfaketime (Debian: faketime) is not installed")
    config = config_in(tmp_path)
    (tmp_path / "c.toml").write_text(f'[paths]\nstate = "{config.paths.state}"\nruntime = "{config.paths.runtime}"\n')
    environment = os.environ | {"LD_PRELOAD": str(library), "FAKETIME": "@1970-01-01 00:01:00", "TZ": "UTC"}
    process = subprocess.Popen(
        [sys.executable, "-m", "compliance_agent", "--config", str(tmp_path / "c.toml"), "run"],
        env=environment | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        status = None
        while status is None or status.checks_at is None:
            assert process.poll() is None
            assert time.monotonic() < deadline
            with contextlib.suppress(LocalServiceError):
                status = request(config.runtime / "api.sock", "GET", "/v1/status", AgentStatus)
            time.sleep(0.1)
        assert status.clock is ClockState.UNSYNCHRONISED
        assert status.started_at < 86400
    finally:
        process.terminate()
        assert process.wait(15) == 0


async def until(condition: Callable[[], bool], what: str = "", seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)
