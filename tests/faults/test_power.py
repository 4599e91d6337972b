"""Cases 1 to 15: the power fails, or the updater is killed."""

from __future__ import annotations

import json
import random

import pytest

from appliance_update.record import State
from tests.appliance_update.conftest import V1, V2, V3
from tests.appliance_update.simulator import boot
from tests.faults.bench import Bench, PowerCut, hooked
from tests.faults.marks import fault

V4 = "2026.11.11"

PLACES = {
    1: ("tuf:refresh", "the next run asks again"),
    2: ("chunk:", "the download goes on where it was"),
    3: ("verify:", "what was fetched is verified by the next run"),
    4: ("partition:5", "the slot is written anew"),
    5: ("partition:4", "slot and tree are written anew"),
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


@fault(8)
@pytest.mark.parametrize("done", ["before", "after"])
def test_power_cut_while_the_loader_renames_the_counter(bench: Bench, done: str) -> None:
    """FAT renames in one directory entry: afterwards the old or the new name is there, with the same content."""
    bench.publish(V2)
    bench.run()
    path = bench.world.device.uki_directory / f"t640_{V2}+3-0.efi"
    assert path.exists()
    if done == "after":
        path.rename(path.with_name(f"t640_{V2}+2-1.efi"))
    bench.holds(V3, "a try is spent or not; the version is tried")


@fault(9)
def test_power_cut_while_the_gate_runs(bench: Bench) -> None:
    """Two tries end in a power cut, the third one passes: nothing is condemned too early."""
    bench.publish(V2, good=False)
    bench.run()
    assert boot(bench.world.device, healthy=set(), limit=2) is None
    assert bench.world.device.boots == [V2, V2]
    bench.good.add(V2)
    assert bench.boot() == V2
    assert bench.world.settle().store.record.state is State.COMMITTED
    bench.holds(V3, "the third try proved itself")


@fault(10)
@pytest.mark.parametrize("when", ["before", "after"])
def test_power_cut_around_the_blessing(bench: Bench, when: str) -> None:
    bench.publish(V2)
    bench.run()
    device = bench.world.device
    if when == "before":
        assert boot(device, healthy=set(), limit=1) is None
        assert any("+2-1" in name for name in device.ukis())
    else:
        assert boot(device, healthy=bench.good) == V2  # blessed, and the power fails before settle could write it down
    bench.boot()
    assert bench.world.settle().store.record.good_version == V2
    assert bench.world.events().count(("committed", V2)) == 1
    bench.holds(V3, "committed once")


@fault(11)
def test_power_cut_during_the_rollback(bench: Bench) -> None:
    """At every place of recording it, and between the tries."""
    bench.publish(V2, good=False)
    bench.run()
    assert boot(bench.world.device, healthy={V1}, limit=2) is None
    assert boot(bench.world.device, healthy={V1}) == V1
    for at in range(12):
        count = -1

        def hook(_name: str, at: int = at) -> None:
            nonlocal count
            count += 1
            if count == at:
                raise PowerCut

        with hooked(hook):
            try:
                bench.world.settle()
            except PowerCut:
                boot(bench.world.device, healthy={V1})
        bench.report.runs += 1
    assert bench.world.settle().store.record.state in (State.ROLLED_BACK, State.QUARANTINED)
    assert bench.world.events().count(("rolled_back", V2)) == 1
    bench.holds(V3, "rolled back, recorded once")


@fault(12)
def test_power_cut_during_the_clean_up(bench: Bench) -> None:
    """An interrupted write is vacuumed by the next run; that run is interrupted too."""
    bench.publish(V2)
    assert bench.cut_at(lambda name: name == "partition:5")
    bench.boot()
    assert bench.cut_at(lambda name: name.startswith("table:"))
    bench.report.runs += 1
    bench.holds(V3, "vacuumed by the run after")


@fault(14)
def test_five_cuts_at_random_over_three_updates(bench: Bench) -> None:
    chance = random.Random(640)
    for target in (V2, V3):
        bench.publish(target)
        for _ in range(5):
            left = chance.randrange(80)

            def place(_name: str) -> bool:
                nonlocal left
                left -= 1
                return left < 0

            bench.cut_at(place)
            bench.report.runs += 1
            bench.boot()
        for _ in range(3):
            if bench.world.device.host.image_version != target:
                bench.run()
                bench.boot()
        assert bench.world.device.host.image_version == target
    bench.holds(V4, "three updates committed")


@fault(15)
@pytest.mark.parametrize("state", [State.CHECKING, State.DOWNLOADING, State.VERIFYING, State.STAGING, State.ARMED])
def test_the_updater_is_killed_in_every_state(bench: Bench, state: State) -> None:
    """Killed at each fault point of the state; the machine stays up and the next run goes on."""
    bench.publish(V2)
    for at in range(40):
        seen = 0

        def place(_name: str, at: int = at) -> bool:
            nonlocal seen
            path = bench.world.device.state / "state.json"
            if not path.exists() or json.loads(path.read_text())["state"] != state.value:
                return False
            seen += 1
            return seen > at

        if not bench.cut_at(place):
            break
        bench.report.runs += 1
    else:
        raise AssertionError("the updater never got past this state")
    assert bench.report.runs > 1
    bench.holds(V3, "the next run goes on")
