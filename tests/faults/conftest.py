"""Every scenario of the fault bench is timed and told; `--faults-results FILE` keeps what they said for the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance_update.conftest import World, key_directory, no_fault_is_left_behind, quick, world
from tests.faults.bench import Bench, Report
from tests.faults.outcome import Outcome, save

__all__ = ["key_directory", "no_fault_is_left_behind", "quick", "world"]

REPORT = pytest.StashKey[Report]()
OUTCOMES = pytest.StashKey[list[Outcome]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-results", type=Path, help="Keep the outcomes of the fault bench in this file (JSON).")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    made = Report()
    request.node.stash[REPORT] = made
    return made


@pytest.fixture
def bench(world: World, report: Report) -> Bench:
    return Bench(world, report)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    result = yield
    done = result.get_result()  # type: ignore[attr-defined]
    mark, report = item.get_closest_marker("fault"), item.stash.get(REPORT, None)
    if mark is None or report is None or done.when != "call" or done.skipped:
        return
    said = report.outcome if done.passed else str(call.excinfo.value).splitlines()[0][:200] if call.excinfo else ""
    rows = item.config.stash.setdefault(OUTCOMES, [])
    for number in mark.args:
        row = Outcome(number, item.name, report.stage, said, report.boots, report.runs, done.duration, done.passed)
        rows.append(row)


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--faults-results", None)
    outcomes = session.config.stash.get(OUTCOMES, [])
    if path and outcomes:
        save(path, outcomes)
