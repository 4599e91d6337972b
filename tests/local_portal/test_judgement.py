"""The one answer: "all right" only when every part was shown to be so just now."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.clock import ClockState
from appliance_protocol.local_models import AgentStatus, ScannerStatus, ScorePoint
from appliance_protocol.verdict import CheckResult, Verdict, score
from local_portal.backends import Reading
from local_portal.judgement import Facts, Level, judge
from local_portal.updater import UpdaterStatus, UpdateState
from tests.local_portal.peers import fixture

NOW = 1_800_000_000.0


def _read(name: str, model: Any) -> Any:
    return Reading(msgspec.convert(fixture(name, NOW), model))


def facts(**other: Any) -> Facts:
    """A clinic where everything is right."""
    good = Facts(NOW, _read("agent", AgentStatus), _read("checks", list[CheckResult]), Reading([]),
                 _read("scanner", ScannerStatus), _read("updater", UpdaterStatus))
    return dataclasses.replace(good, **other)


def agent(**other: Any) -> Reading[AgentStatus]:
    return Reading(dataclasses.replace(facts().agent.value, **other))


def one_check(**other: Any) -> dict[str, Any]:
    """The first check says something else; the agent's score follows."""
    checks = facts().checks.value or []
    changed = [dataclasses.replace(checks[0], **other), *checks[1:]]
    full = score(changed, NOW)
    since = NOW - 86400 if full.conforming == full.counted else None
    return {"checks": Reading(changed), "agent": agent(score=full, conforming_since=since)}


def updater(**other: Any) -> Reading[UpdaterStatus]:
    return Reading(dataclasses.replace(facts().updater.value, **other))


def scanner(**other: Any) -> Reading[ScannerStatus]:
    return Reading(dataclasses.replace(facts().scanner.value, **other))


def test_when_everything_is_right_it_says_so_and_since_when() -> None:
    answer = judge(facts())
    assert (answer.level, answer.headline, answer.steps) == (Level.RIGHT, "You are all right", ())
    assert answer.since == facts().agent.value.conforming_since  # type: ignore[union-attr]


DOWN: Reading[Any] = Reading(None, "It is down.")


@pytest.mark.parametrize("part", ["agent", "checks", "scanner", "updater"])
def test_a_part_that_cannot_be_read_is_never_all_right(part: str) -> None:
    answer = judge(facts(**{part: DOWN}))
    assert answer.level is Level.UNKNOWN
    assert any("It is down." in step.detail for step in answer.steps)


@pytest.mark.parametrize(("change", "level"), [
    (one_check(verdict=Verdict.FAIL), Level.ATTENTION),
    (one_check(verdict=Verdict.ERROR), Level.UNKNOWN),
    (one_check(verdict=Verdict.UNKNOWN), Level.UNKNOWN),
    (one_check(verdict=Verdict.NOT_CHECKED), Level.UNKNOWN),
    (one_check(expires_at=NOW - 1), Level.UNKNOWN),
    (one_check(checked_at=NOW + 86400), Level.UNKNOWN),
    (one_check(verdict=Verdict.FIXED), Level.RIGHT),
    (one_check(verdict=Verdict.NOT_APPLICABLE), Level.RIGHT),
    ({"checks": Reading([])}, Level.UNKNOWN),
    ({"agent": agent(clock=ClockState.UNSYNCHRONISED)}, Level.ATTENTION),
    ({"agent": agent(clock=ClockState.UNKNOWN)}, Level.UNKNOWN),
    ({"agent": agent(problems=("The state disk is full.",))}, Level.ATTENTION),
    ({"agent": agent(enrolled=False)}, Level.ATTENTION),
    ({"agent": agent(checks_at=None)}, Level.UNKNOWN),
    ({"agent": agent(checks_at=NOW - 86400)}, Level.UNKNOWN),
    ({"agent": agent(checks_at=NOW + 86400)}, Level.UNKNOWN),
    ({"agent": agent(conforming_since=None)}, Level.UNKNOWN),
    ({"agent": agent(conforming_since=NOW + 86400)}, Level.UNKNOWN),
    ({"agent": agent(last_checkin_at=NOW - 5 * 86400)}, Level.RIGHT),
    ({"scanner": scanner(last_scan_at=None)}, Level.UNKNOWN),
    ({"scanner": scanner(last_scan_at=NOW - 3 * 86400)}, Level.UNKNOWN),
    ({"scanner": scanner(last_scan_at=NOW + 3 * 86400)}, Level.UNKNOWN),
    ({"scanner": scanner(problems=("enp1s0 has no carrier.",))}, Level.ATTENTION),
    ({"updater": updater(state="rolled_back")}, Level.ATTENTION),
    ({"updater": updater(state="quarantined")}, Level.ATTENTION),
    ({"updater": updater(state="invented-tomorrow")}, Level.UNKNOWN),
    ({"updater": updater(updated_at=None)}, Level.UNKNOWN),
    ({"updater": updater(updated_at=NOW - 3 * 86400)}, Level.UNKNOWN),
    ({"updater": updater(state="trial")}, Level.RIGHT),
])
def test_each_single_deviation_has_its_level(change: dict[str, Any], level: Level) -> None:
    answer = judge(facts(**change))
    assert answer.level is level
    assert (answer.headline == "You are all right") == (level is Level.RIGHT)
    assert level is Level.RIGHT or answer.steps


def test_a_failed_check_comes_before_what_is_merely_unknown() -> None:
    answer = judge(facts(**one_check(verdict=Verdict.FAIL), scanner=DOWN))
    assert answer.level is Level.ATTENTION
    assert [step.level for step in answer.steps][:2] == [Level.ATTENTION, Level.UNKNOWN]


def test_a_failure_is_dated_by_the_score_history() -> None:
    history = [ScorePoint(NOW - 7200, 18, 18), ScorePoint(NOW - 3600, 17, 18), ScorePoint(NOW - 60, 17, 18)]
    answer = judge(facts(**one_check(verdict=Verdict.FAIL), history=Reading(history)))
    assert answer.since == NOW - 3600


def test_a_lost_uplink_is_said_and_condemns_nothing() -> None:
    answer = judge(facts(agent=agent(last_checkin_at=NOW - 5 * 86400)))
    assert answer.level is Level.RIGHT
    assert [step.title for step in answer.steps] == ["Your provider has not been reached for 5 days"]


results = st.lists(st.builds(
    CheckResult, check_id=st.just("c"), title=st.just("t"), verdict=st.sampled_from(Verdict), reason=st.just(""),
    checked_at=st.floats(NOW - 9999, NOW + 9999), expires_at=st.floats(NOW - 9999, NOW + 9999), source=st.just(""),
    input_digest=st.just(""), citations=st.just(()), does_not_prove=st.just("")), max_size=6)


@given(results, st.sampled_from(UpdateState), st.sampled_from(ClockState), st.floats(0, 10) | st.none())
def test_all_right_is_only_said_when_every_counted_check_is_met_and_fresh(
    checks: list[CheckResult], state: UpdateState, clock: ClockState, scan_days: float | None
) -> None:
    full = score(checks, NOW)
    answer = judge(facts(
        checks=Reading(checks), agent=agent(score=full, clock=clock), updater=updater(state=state.value),
        scanner=scanner(last_scan_at=None if scan_days is None else NOW - scan_days * 86400)))
    if answer.level is Level.RIGHT:
        assert full.counted > 0 and full.conforming == full.counted
        assert clock is ClockState.SYNCHRONISED and scan_days is not None and scan_days <= 2
        assert state not in (UpdateState.ROLLED_BACK, UpdateState.QUARANTINED, UpdateState.UNREADABLE)
    else:
        assert answer.headline != "You are all right" and answer.steps
