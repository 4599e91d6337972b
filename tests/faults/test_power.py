"""Cases 1 to 15: the power fails, or the updater is killed."""

from __future__ import annotations

import pytest

from tests.appliance_update.conftest import V2, V3
from tests.faults.bench import Bench
from tests.faults.marks import fault

PLACES = {
    1: ("tuf:refresh", "the next run asks again"),
    2: ("chunk:", "the download goes on"),
    4: ("partition:", "the slot is written anew"),
    6: ("esp:half", "the half entry is cleared away"),
    7: ("uki:write", "the slot is kept, its entry is written"),
}


@pytest.mark.parametrize(
    "place, outcome", [pytest.param(*PLACES[number], marks=fault(number), id=f"{number:02}") for number in PLACES]
)
def test_power_cut(bench: Bench, place: str, outcome: str) -> None:
    bench.publish(V2)
    assert bench.cut_at(lambda name: name.startswith(place))
    bench.holds(V3, outcome)
