"""Power cuts, EIO and ENOSPC at every place of every step that changes the device.

Each disturbed step ends with the invariant: some slot boots, the updater can apply the next version, and no evidence is
lost or doubled. A step is prepared, disturbed at its first place, prepared again, disturbed at its second place, until
a disturbance comes too late; all of it on one device, which so goes through hundreds of updates.

`make test` cuts at every place and fails every third; `make test-fast` takes a ninth of those, every day other ones.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance_update.quarantine import DAY
from appliance_update.release import Downgrade
from tests.appliance_update.appliance import (
    Appliance,
    Disturbance,
    Shelf,
    after,
    cut,
    disturbed,
    input_output_error,
    make_appliance,
    make_shelf,
    no_space,
)
from tests.appliance_update.simulator import boot

pytestmark = pytest.mark.exhaustive

FIRST = "2026.11.1"
FAST = os.environ.get("HYPOTHESIS_PROFILE") == "fast"
STRIDE = 9 if FAST else 1
TODAY = int(time.time() // DAY)
ERRORS = {"cut": cut, "EIO": input_output_error, "ENOSPC": no_space}
HISTORY = 60
"""Updates after which the device is replaced: its history is read again at each one."""

Step = Callable[[Appliance], object]


# -- steps: how the device gets there, and what is disturbed ----------------------------------------------------------


def newest(shelf: Shelf) -> str:
    return max(shelf.builds, key=lambda version: [int(part) for part in version.split(".")])


def offer(appliance: Appliance, *, good: bool = True) -> str:
    appliance.shelf.offered.clear()
    version = after(newest(appliance.shelf))
    appliance.shelf.put(version)
    if good:
        appliance.good.add(version)
    return version


def offered(appliance: Appliance) -> None:
    offer(appliance)


def interrupted(appliance: Appliance) -> None:
    """The slot is half written."""
    offer(appliance)
    by = Disturbance()
    with disturbed(by):
        by.stop = lambda name: name.startswith("partition:")
        appliance.run()


def proved(appliance: Appliance) -> None:
    """The new version is blessed; nobody has written it down."""
    offer(appliance)
    appliance.run()
    boot(appliance.device, healthy=appliance.good)


def failed(appliance: Appliance) -> None:
    """The loader went back; nobody has written it down."""
    offer(appliance, good=False)
    appliance.run()
    boot(appliance.device, healthy=appliance.good)


def due_again(appliance: Appliance) -> None:
    """A version failed here some days ago, and would be good now."""
    version = offer(appliance, good=False)
    appliance.run()
    appliance.power_on()
    appliance.ahead += 2 * DAY
    appliance.good.add(version)


def downgrade(appliance: Appliance) -> None:
    """The running version is withdrawn for a lower one."""
    lower = after(newest(appliance.shelf))
    higher = after(lower)
    appliance.shelf.put(higher)
    appliance.advances(higher)
    appliance.shelf.offered.clear()
    appliance.shelf.put(lower, downgrade=Downgrade((higher,), int(appliance.now() + DAY)))
    appliance.good.add(lower)


def armed(appliance: Appliance) -> None:
    offer(appliance)
    appliance.run()


def migrated(appliance: Appliance) -> None:
    """A version migrated its databases on trial, against the rule, and failed."""
    version = offer(appliance, good=False)
    appliance.services.hold, appliance.services.knows[version] = False, 2
    appliance.run()
    assert boot(appliance.device, healthy=set(), limit=1) is None
    appliance.services.start()
    assert appliance.services.schema() == 2
    boot(appliance.device, healthy=appliance.good)


def turned_bad(appliance: Appliance) -> None:
    """Both slots are good; the agent of the running version has been crashing for three looks."""
    for _ in range(2):
        offer(appliance)
        appliance.advances(newest(appliance.shelf))
    for _ in range(3):
        appliance.look()


def settle(appliance: Appliance) -> None:
    appliance.settle()


def mark_bad(appliance: Appliance) -> None:
    appliance.mark_bad(newest(appliance.shelf))


def ordered(appliance: Appliance) -> None:
    """Two orders wait in the box."""
    offer(appliance)
    for _ in range(2):
        appliance.order(f"order-{random.getrandbits(60):x}")


STEPS: dict[str, tuple[Step, Step, int]] = {
    "update": (offered, Appliance.run, 90),
    "update over a half-written slot": (interrupted, Appliance.run, 60),
    "ordered update": (ordered, Appliance.run, 90),
    "commit": (proved, settle, 8),
    "rollback": (failed, settle, 10),
    "second try": (due_again, Appliance.run, 90),
    "downgrade": (downgrade, Appliance.run, 90),
    "mark bad": (armed, mark_bad, 8),
    "restore": (migrated, Appliance.restore, 10),
    "second thoughts": (turned_bad, Appliance.look, 18),
}
"""Name to preparation, disturbed step, and how many places it has at least."""


# -- the sweep --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(quick: Path) -> Shelf:
    return make_shelf(quick)


def device(shelf: Shelf, number: int) -> Appliance:
    root = shelf.directory / "device"
    shutil.rmtree(root, ignore_errors=True)
    return make_appliance(shelf, root, FIRST if not shelf.builds else newest(shelf))


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", STEPS)
def test_a_disturbance_at_any_place_of(name: str, error: str, shelf: Shelf) -> None:
    prepare, step, least = STEPS[name]
    stride = STRIDE * (1 if error == "cut" else 3)
    appliance = device(shelf, 0)
    for turn, place in enumerate(itertools.count(TODAY % stride, stride)):
        if turn % HISTORY == HISTORY - 1:
            appliance = device(shelf, turn)
        prepare(appliance)
        by = Disturbance(frozenset({place}), ERRORS[error])
        with disturbed(by):
            step(appliance)
        appliance.check()
        appliance.advances(after(newest(shelf)))
        if len(by.names) <= place:
            break
    assert len(by.names) >= least, f"{name} has fewer places than it should have: {by.names}"
    if name == "restore":
        assert appliance.services.schema() == 1


@pytest.mark.parametrize("name", ["update", "rollback", "restore", "second thoughts"])
def test_a_second_cut_at_the_same_place_of(name: str, shelf: Shelf) -> None:
    """The first thing after the power comes back is the power going again."""
    prepare, step, _ = STEPS[name]
    appliance = device(shelf, 0)
    for place in itertools.count(TODAY % (3 * STRIDE), 3 * STRIDE):
        prepare(appliance)
        by = Disturbance()
        for _ in range(2):
            by = Disturbance(frozenset({place}))
            with disturbed(by):
                step(appliance)
        appliance.check()
        appliance.advances(after(newest(shelf)))
        if len(by.names) <= place:
            break


@pytest.mark.parametrize("seed", range(6 if FAST else 60))
def test_five_random_cuts_in_each_of_three_updates(seed: int, shelf: Shelf) -> None:
    dice = random.Random(seed)
    appliance = device(shelf, seed)
    for _ in range(3):
        version = offer(appliance)
        for _ in range(5):
            with disturbed(Disturbance(frozenset({dice.randrange(110)}))):
                appliance.run()
            with disturbed(Disturbance(frozenset({dice.randrange(40)}))):
                appliance.power_on()
        appliance.power_on()
        appliance.advances(version)
        assert appliance.count("committed", version) == 1
    appliance.check()
