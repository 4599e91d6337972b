"""The simulated device of the fault bench."""

from __future__ import annotations

import pytest

from tests.appliance_update.conftest import World, key_directory, no_fault_is_left_behind, quick, world
from tests.faults.bench import Bench
from tests.faults.outcome import Report

__all__ = ["key_directory", "no_fault_is_left_behind", "quick", "world"]


@pytest.fixture
def bench(world: World, report: Report) -> Bench:
    return Bench(world, report)
