"""Every check says of every recorded box what it should: this is what keeps a check from being turned around."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from appliance_protocol.clock import ClockReading
from appliance_protocol.verdict import Verdict
from compliance_agent.checks.base import Check, UnloadableCheck, discover
from tests.compliance_agent.checks import recorded

CHECKS = {check.id: check for check in discover()}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_every_check_has_a_conforming_and_a_violating_recording(check: Check) -> None:
    stems = {path.stem for path in recorded.cases(check.id)}
    assert {"conforming", "violating"} <= stems
    assert not isinstance(check, UnloadableCheck)


def test_every_recording_belongs_to_a_check() -> None:
    assert {path.name for path in recorded.FIXTURES.iterdir()} == set(CHECKS)


@pytest.mark.parametrize("path", recorded.cases(), ids=recorded.name)
def test_a_recorded_box_gets_the_verdict_it_is_named_for(path: Path, tmp_path: Path) -> None:
    check, case = CHECKS[path.parent.name], recorded.load(path)
    with recorded.box(case, tmp_path / "root") as host:
        finding = recorded.look(check, host)
        again = recorded.look(check, host)

    assert finding.verdict is recorded.expected(path), finding.reason
    assert case.reason in finding.reason
    assert case.facts.items() <= finding.facts.items()
    assert finding.source, "an auditor must be able to see what was read"
    assert finding == again, "the same box must give the same finding and the same digest"


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_the_input_digest_tells_a_conforming_box_from_a_violating_one(check: Check, tmp_path: Path) -> None:
    digests = set()
    for word in ("conforming", "violating"):
        case = recorded.load(recorded.FIXTURES / check.id / f"{word}.toml")
        with recorded.box(case, tmp_path / word) as host:
            result = check.result(recorded.look(check, host), recorded.NOW.wall)
        assert result.input_digest.startswith("sha256:")
        digests.add(result.input_digest)
    assert len(digests) == 2


EXEMPT = [path for path in recorded.cases() if recorded.expected(path) is Verdict.NOT_APPLICABLE]


@pytest.mark.parametrize("path", EXEMPT, ids=recorded.name)
def test_an_exemption_names_the_rule_that_was_declared(path: Path, tmp_path: Path) -> None:
    with recorded.box(recorded.load(path), tmp_path / "root") as host:
        finding = recorded.look(CHECKS[path.parent.name], host)
    assert finding.reason.startswith("Declared: ")


def test_an_updater_that_has_not_looked_for_days_of_uptime_fails(tmp_path: Path) -> None:
    class Later:
        def read(self) -> ClockReading:
            return replace(recorded.NOW, monotonic=4 * 86400.0)

    case = recorded.load(recorded.FIXTURES / "update-age" / "unknown-not-yet-looked.toml")
    with recorded.box(case, tmp_path / "root") as host:
        finding = recorded.look(CHECKS["update-age"], replace(host, clock=Later()))
    assert finding.verdict is Verdict.FAIL
    assert "never looked" in finding.reason
