"""Any story a device may live through, told by hypothesis: good and bad releases, cuts, clocks, orders, doubts.

At its end, and whenever the story asks, the invariant holds: some slot boots, the updater can apply the next version,
and no evidence is lost or doubled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance_update.config import Window
from appliance_update.quarantine import DAY
from appliance_update.updater import UpdateError
from tests.appliance_update.appliance import (
    Appliance,
    Disturbance,
    after,
    cut,
    disturbed,
    input_output_error,
    make_appliance,
    make_shelf,
    no_space,
)
from tests.appliance_update.test_every_place import newest

pytestmark = pytest.mark.exhaustive

FIRST = "2026.11.1"
FAST = os.environ.get("HYPOTHESIS_PROFILE") == "fast"
ERRORS = st.sampled_from((cut, cut, input_output_error, no_space))
PLACES = st.integers(0, 110)


class Story(RuleBasedStateMachine):
    """One device's life."""

    appliance: Appliance

    @initialize()
    def begin(self) -> None:
        memory = Path("/dev/shm")
        self.directory = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        shelf = make_shelf(self.directory)
        self.appliance = make_appliance(shelf, self.directory / "device", FIRST)
        self.orders = 0

    # -- the publisher --

    @rule(good=st.booleans(), schema=st.booleans(), epoch=st.integers(0, 2))
    def publish(self, good: bool, schema: bool, epoch: int) -> None:
        version = after(newest(self.appliance.shelf))
        self.appliance.shelf.put(version, security_epoch=epoch)
        if good:
            self.appliance.good.add(version)
        elif schema:  # and it migrates on trial, which it must not
            self.appliance.services.knows[version] = 2
            self.appliance.services.hold = False

    @rule(reachable=st.booleans())
    def uplink(self, reachable: bool) -> None:
        self.appliance.shelf.reachable = reachable

    @precondition(lambda self: len(self.appliance.good) > 1)
    @rule()
    def the_newest_good_one_turns_bad(self) -> None:
        """Its gate would not pass any more; it is blessed and stays so."""
        self.appliance.good.discard(max(self.appliance.good, key=lambda v: [int(part) for part in v.split(".")]))

    # -- the device --

    @rule()
    def timer(self) -> None:
        self.appliance.run()

    @rule()
    def timer_outside_the_window(self) -> None:
        self.appliance.run(window=Window("03:00", "03:00", days=(), maximum_postponement_days=3.0))

    @rule(place=PLACES, error=ERRORS)
    def timer_disturbed(self, place: int, error: object) -> None:
        with disturbed(Disturbance(frozenset({place}), error)):  # type: ignore[arg-type]
            self.appliance.run()

    @rule()
    def reboot(self) -> None:
        self.appliance.power_on()

    @rule(place=st.integers(0, 30), error=ERRORS)
    def reboot_disturbed(self, place: int, error: object) -> None:
        with disturbed(Disturbance(frozenset({place}), error)):  # type: ignore[arg-type]
            self.appliance.power_on()

    @rule(place=st.one_of(st.none(), st.integers(0, 40)))
    def look_while_the_agent_crashes(self, place: int | None) -> None:
        for _ in range(3):
            self.appliance.look()
        with disturbed(Disturbance(frozenset() if place is None else frozenset({place}))):
            self.appliance.look()

    @rule()
    def look_while_all_is_well(self) -> None:
        self.appliance.look(crashing=False)

    # -- people and clocks --

    @rule(again=st.booleans())
    def order(self, again: bool) -> None:
        self.orders += 0 if again and self.orders else 1
        self.appliance.order(f"order-{self.orders}")

    @rule(which=st.integers(0, 3))
    def mark_bad(self, which: int) -> None:
        versions = sorted(self.appliance.shelf.builds, key=lambda version: [int(part) for part in version.split(".")])
        version = versions[-1 - which % len(versions)]
        with contextlib.suppress(UpdateError):  # the one that runs cannot be
            self.appliance.mark_bad(version)

    @rule(days=st.sampled_from((0.1, 1.1, 5.0, 400.0, -1.0, -400.0)))
    def the_clock_jumps(self, days: float) -> None:
        self.appliance.ahead += days * DAY

    # -- what always holds --

    @invariant()
    def no_evidence_is_lost_or_doubled(self) -> None:
        if hasattr(self, "appliance"):
            self.appliance.services.check_evidence()

    @invariant()
    def never_is_an_entry_bootable_whose_slot_is_not_whole(self) -> None:
        if hasattr(self, "appliance"):
            assert self.appliance.device.ukis(), "there is nothing to boot"

    def teardown(self) -> None:
        if not hasattr(self, "appliance"):
            return
        try:
            self.appliance.check()
            self.appliance.advances(after(newest(self.appliance.shelf)))
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)


TestAnyStory = Story.TestCase
TestAnyStory.settings = settings(
    max_examples=10 if FAST else 150,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
