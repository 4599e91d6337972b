"""A signed, dated downgrade on a device: the loader prefers the highest version, the lower one is tried though."""

from __future__ import annotations

import time

import pytest

from appliance_release.publishing import amend
from appliance_release.releases import Downgrade
from appliance_update import faults
from appliance_update.updater import Outcome
from tests.appliance_update.conftest import V1, V2, V3, World
from tests.appliance_update.simulator import boot

DAY = 86_400.0


class Cut(BaseException):
    """The power goes."""


@pytest.fixture
def regretted(world: World) -> World:
    """A device that proved V3, which its publisher regrets: V2 is to take its place."""
    world.publish(V2, security_epoch=1)
    world.publish(V3, security_epoch=1)
    world.updater().run()
    assert boot(world.device) == V3
    world.settle()
    amend(world.publisher, V2, "t640", downgrade=Downgrade((V3,), time.time() + DAY))
    return world


def test_the_lower_version_is_tried_and_stays(regretted: World) -> None:
    assert regretted.updater().run()[0] is Outcome.REBOOTING
    assert boot(regretted.device) == V2
    assert regretted.settle().store.record.good_version == V2
    assert boot(regretted.device) == V2
    assert regretted.updater().run()[0] is Outcome.UP_TO_DATE


def test_the_next_fix_is_taken_from_there(regretted: World) -> None:
    regretted.updater().run()
    boot(regretted.device)
    regretted.settle()
    fix = "2026.11.11"
    regretted.publish(fix, security_epoch=1)
    assert regretted.updater().run()[0] is Outcome.REBOOTING
    assert boot(regretted.device) == fix


def test_a_lower_version_that_does_not_prove_itself_is_left_for_the_one_before(regretted: World) -> None:
    regretted.updater().run()
    assert boot(regretted.device, healthy={V3}) == V3
    kept = regretted.settle().store
    assert kept.record.good_version == V3
    assert V2 in kept.put_away_versions()
    assert regretted.device.ukis() == [f"t640_{V3}.efi", f"t640_{V2}+0-3.efi"]
    assert regretted.updater().run()[0] is Outcome.UP_TO_DATE


@pytest.mark.parametrize("step", ["entry rename", "entry renamed"])
def test_a_power_cut_while_it_steps_aside_leaves_something_to_boot_and_the_way_open(
    regretted: World, step: str
) -> None:
    name = f"t640_{V3}+0-4.efi"

    def cut(point: str) -> None:
        if point == f"{step}:{name}":
            raise Cut

    faults.set_hook(cut)
    with pytest.raises(Cut):
        regretted.updater().run()
    faults.set_hook(None)
    assert boot(regretted.device) == (V3 if step == "entry rename" else V2)
    regretted.settle()
    regretted.updater().run()
    assert boot(regretted.device) == V2


def test_a_lapsed_downgrade_changes_nothing(regretted: World) -> None:
    amend(regretted.publisher, V2, "t640", downgrade=Downgrade((V3,), time.time() - DAY))
    before = regretted.device.writes
    assert regretted.updater().run()[0] is Outcome.UP_TO_DATE
    assert (regretted.device.writes, regretted.device.ukis()) == (before, [f"t640_{V1}.efi", f"t640_{V3}.efi"])
