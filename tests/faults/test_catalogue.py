"""The bench is complete: each of the seventy cases has a scenario, and none has a number that does not exist."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.catalogue import CASES
from tests.faults.outcome import Outcome, Stage, load, save
from tests.faults.table import render


def scenarios() -> dict[int, list[str]]:
    """Names of the scenarios by case, read from the marks."""
    found: dict[int, list[str]] = {}
    for module in sorted(Path(__file__).parents[1].rglob("test_*.py")):
        if "fault(" not in module.read_text():
            continue
        name = ".".join(module.relative_to(Path(__file__).parents[2]).with_suffix("").parts)
        for test, item in vars(importlib.import_module(name)).items():
            if test.startswith("test_"):
                for number in _numbers(getattr(item, "pytestmark", [])):
                    found.setdefault(number, []).append(test)
    return found


def _numbers(marks: list[pytest.Mark]) -> Iterator[int]:
    for mark in marks:
        if mark.name == "fault":
            yield from mark.args
        elif mark.name == "parametrize":
            for parameters in mark.args[1]:
                yield from _numbers([item.mark for item in getattr(parameters, "marks", ())])


def test_the_catalogue_counts_from_one_to_seventy() -> None:
    assert [case.number for case in CASES] == list(range(1, 71))


def test_every_case_has_a_scenario() -> None:
    assert sorted(scenarios()) == [case.number for case in CASES]


def test_a_case_without_a_run_is_open_in_the_table_and_a_failed_one_does_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    rows = [
        Outcome(1, "a", Stage.SIMULATED, "the next run checks again", 1, 5, 0.2, True),
        Outcome(2, "b", Stage.MACHINE, "nothing booted", 3, 1, 90.0, False),
    ]
    save(path, rows[:1])
    save(path, rows)
    text = render(load(path))
    assert "held in 1 of 70" in text
    assert "**does not hold**: nothing booted" in text
    assert text.count("**open**") == 68
