"""Running checks: whatever a check does, a verdict with a reason comes of it."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.verdict import Verdict
from appliance_protocol.wire import canonical
from compliance_agent.checking import CheckRunner, Schedule
from compliance_agent.checks.base import Check, Finding, Host, UnloadableCheck, discover
from compliance_agent.checks.settings import CheckSettings
from compliance_agent.errors import CheckError
from compliance_agent.service import COLLECT_DEADLINE
from tests.compliance_agent.agent_world import SettableCheck, agent_in


class Raising(SettableCheck):
    """Raises what it is given, or hangs."""

    def __init__(self, problem: BaseException | threading.Event) -> None:
        super().__init__("raising")
        self.problem = problem
        self.deadline = 0.1 if isinstance(problem, threading.Event) else 4.0  # type: ignore[misc]

    def run(self, host: Host) -> Finding:
        if isinstance(self.problem, threading.Event):
            self.problem.wait(30)
            return Finding(Verdict.PASS, "too late", "the test")
        raise self.problem


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (CheckError("the bus is gone", "D-Bus"), "the bus is gone"),
        (AttributeError("no attribute 'x'"), "the check broke down: AttributeError: no attribute 'x'"),
        (RecursionError("deep"), "the check broke down: RecursionError: deep"),
        (StopIteration("odd"), "the check broke down: RuntimeError: StopIteration('odd')"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "the check broke down: UnicodeDecodeError"),
    ],
)
async def test_a_check_that_raises_is_an_error_with_the_reason(tmp_path: Path, problem: Exception, reason: str) -> None:
    agent = agent_in(tmp_path)
    (result,) = await CheckRunner([Raising(problem)]).run(agent.host())
    assert result.verdict is Verdict.ERROR
    assert result.reason.startswith(reason)


async def test_a_check_that_hangs_is_an_error_in_time_and_is_not_started_again(tmp_path: Path) -> None:
    agent, release = agent_in(tmp_path), threading.Event()
    runner = CheckRunner([Raising(release), SettableCheck()])
    hung, fine = await runner.run(agent.host())
    assert (hung.verdict, hung.reason) == (Verdict.ERROR, "raising took more than 0.1 s")
    assert fine.verdict is Verdict.PASS
    again, _ = await runner.run(agent.host())
    assert "an earlier run of this check still hangs" in again.reason
    release.set()


async def test_a_check_the_site_switched_off_is_not_run_and_not_passed(tmp_path: Path) -> None:
    check = SettableCheck()
    agent = agent_in(tmp_path, check, checks=CheckSettings(disabled=("settable",)))
    (result,) = await agent.runner.run(agent.host())
    assert (result.verdict, check.runs) == (Verdict.NOT_SELECTED, 0)
    assert not result.verdict.counts


@given(st.text(max_size=3000), st.dictionaries(st.text(max_size=2000), st.text(max_size=2000), max_size=3))
def test_whatever_a_check_saw_fits_into_evidence(reason: str, facts: dict[str, str]) -> None:
    result = SettableCheck().result(Finding(Verdict.FAIL, reason, reason, b"", facts), 1.0)
    assert len(result.reason) <= 1000
    assert result.reason.isprintable()
    canonical(result)


def test_lone_surrogates_and_escape_sequences_do_not_reach_a_terminal() -> None:
    finding = Finding(Verdict.FAIL, "\x1b[31m\ud800\0", "s")
    assert SettableCheck().result(finding, 1.0).reason == "\N{REPLACEMENT CHARACTER}[31m?\N{REPLACEMENT CHARACTER}"


def test_every_check_is_found_complete_and_loadable() -> None:
    checks = discover()
    assert len(checks) >= 16
    for check in checks:
        assert not isinstance(check, UnloadableCheck)
        assert check.citations and check.title and check.does_not_prove and check.remedy
        assert check.expiry > check.interval
    assert [check.id for check in checks] == sorted({check.id for check in checks})


def test_the_deadlines_of_a_whole_pass_fit_the_task_that_runs_it(tmp_path: Path) -> None:
    agent = agent_in(tmp_path)
    worst = sum(check.deadline for check in discover()) / 4
    assert worst + COLLECT_DEADLINE < agent.tasks["checks"].deadline


async def test_a_file_that_cannot_be_imported_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    agent = agent_in(tmp_path)
    broken: Check = UnloadableCheck("new_check", "checks/new_check.py cannot be loaded: SyntaxError()")
    (result,) = await CheckRunner([broken]).run(agent.host())
    assert (result.check_id, result.verdict) == ("new-check", Verdict.ERROR)


def test_a_jump_of_the_wall_clock_makes_every_check_due(tmp_path: Path) -> None:
    check = SettableCheck()
    schedule = Schedule([check])
    assert schedule.due(100.0, 10.0) == [check]
    schedule.ran([check.result(check.run(agent_in(tmp_path).host()), 100.0)], 10.0)
    assert schedule.due(110.0, 20.0) == []
    assert schedule.due(1_790_000_000.0, 21.0) == [check]


def test_the_host_reads_below_its_root_only_and_bounded(tmp_path: Path) -> None:
    host = dataclasses.replace(agent_in(tmp_path).host(), root=tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/large").write_bytes(b"x" * 11)
    with pytest.raises(CheckError, match="/etc/large is larger than 10 bytes"):
        host.read_bytes("/etc/large", 10)
    with pytest.raises(CheckError, match=r"/etc/none cannot be read: No such file"):
        host.read_text("/etc/none")
