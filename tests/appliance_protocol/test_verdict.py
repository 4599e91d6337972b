"""Scores: unknown is never success, stale is never success, nothing is never 100 %."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.verdict import Verdict, score
from tests.appliance_protocol.builders import a_result

NOW = 1_800_000_100.0


def test_no_results_is_no_score() -> None:
    assert score([], NOW).percent is None


def test_exemptions_alone_are_no_score() -> None:
    assert score([a_result(Verdict.NOT_APPLICABLE), a_result(Verdict.INFORMATIONAL)], NOW).percent is None


def test_error_and_unknown_count_as_not_met() -> None:
    assert score([a_result(Verdict.PASS), a_result(Verdict.ERROR), a_result(Verdict.UNKNOWN)], NOW).percent == 33


def test_a_stale_pass_is_not_a_pass() -> None:
    result = a_result(Verdict.PASS, lifetime=10)
    assert score([result], NOW).percent == 0
    assert result.stale(result.expires_at)


@given(st.lists(st.sampled_from(Verdict)))
def test_only_all_conforming_is_one_hundred(verdicts: list[Verdict]) -> None:
    outcome = score([a_result(verdict) for verdict in verdicts], NOW)
    counted = [verdict for verdict in verdicts if verdict.counts]
    assert (outcome.percent == 100) == (bool(counted) and all(verdict.conforms for verdict in counted))
    assert outcome.conforming <= outcome.counted
