"""How long the property-based tests look for a counterexample, and the fault bench's recording of its scenarios.

`make test` looks for 100 examples each (hypothesis's own default), `make test-fast` for 25. No deadlines: a busy
machine is no fault.
"""

from __future__ import annotations

import os

from hypothesis import settings

from tests.faults.recording import pytest_addoption, pytest_runtest_makereport, pytest_sessionfinish, report

__all__ = ["pytest_addoption", "pytest_runtest_makereport", "pytest_sessionfinish", "report"]

settings.register_profile("full", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=25)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "full"))
