"""How long the property-based tests look for a counterexample, and the fault bench's recording of its scenarios.

`make test` looks for 100 examples each (hypothesis's own default), `make test-fast` for 25. No deadlines: a busy
machine is no fault.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.faults.bench", "tests.faults.machinery")

from tests.faults.recording import (  # noqa: E402  what asserts is told first
    pytest_addoption,
    pytest_runtest_makereport,
    report,
)

__all__ = ["pytest_addoption", "pytest_runtest_makereport", "report"]

settings.register_profile("full", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=25)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "full"))
