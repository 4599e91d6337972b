"""Every scenario of the fault bench is timed and told; `--faults-results FILE` keeps what they said for the table.

A scenario is any test with a `fault` mark, wherever it lies. One that asks for `report` says more of itself; of one
that does not, the table has its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.outcome import Outcome, Report, Stage, save

REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-results", type=Path, help="Keep the outcomes of the fault bench in this file (JSON).")
    parser.addoption("--boot-next", action="store_true", help="On the virtual T640, boot the version after the fault.")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """What this scenario says of itself."""
    return request.node.stash.setdefault(REPORT, Report())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    result = yield
    done = result.get_result()  # type: ignore[attr-defined]
    mark = item.get_closest_marker("fault")
    if mark is None or done.skipped or (done.when != "call" and done.passed) or done.when == "teardown":
        return
    report = item.stash.get(REPORT, None) or _unspoken(item)
    said = report.outcome if done.passed else _failure(call)
    shown = report.stage, said, report.boots, report.runs, round(done.duration, 1), done.passed
    path = item.config.getoption("--faults-results", None)
    if path:  # at once: whoever ends a run of hours keeps what it has shown
        save(path, [Outcome(number, item.name, *shown) for number in mark.args])


def _failure(call: pytest.CallInfo[None]) -> str:
    """The first line of what went wrong; an assertion may say nothing."""
    return call.excinfo.exconly().partition("\n")[0][:200] if call.excinfo else ""


def _unspoken(item: pytest.Item) -> Report:
    """A report for a test that makes none: its name, and where it ran."""
    said = item.name.partition("[")[0].removeprefix("test_").replace("_", " ")
    stage = Stage.PROCESS
    if item.get_closest_marker("vm"):
        stage = Stage.CONTAINER if "container" in item.path.name else Stage.MACHINE
    return Report(said, stage)

