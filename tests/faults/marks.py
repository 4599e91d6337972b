"""`@fault(7)` ties a test to its case; several tests may belong to one case, and a test to several."""

from __future__ import annotations

import pytest

from tests.faults.catalogue import case


def fault(*numbers: int) -> pytest.MarkDecorator:
    """Mark a test as a scenario of these cases. Raises `IndexError` for a number that is none."""
    return pytest.mark.fault(*(case(number).number for number in numbers))
