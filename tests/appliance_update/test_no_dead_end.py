"""No state of the updater is one that it never leaves by itself: the next release is always looked for and taken."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from appliance_release.artifacts import ArtifactError
from appliance_release.publishing import amend
from appliance_release.releases import Downgrade
from appliance_update.config import Window
from appliance_update.install import InstallError
from appliance_update.machine import assemble
from appliance_update.record import State
from appliance_update.updater import BLESSED_WITHIN, RESTARTS, Outcome, UpdateError, Updater
from tests.appliance_update.conftest import V1, V2, V3, World
from tests.appliance_update.simulator import boot, make_build, pe_file

HOUR, DAY = 3600.0, 86400.0


@dataclass
class Hours:
    """The wall clock and the clock since boot, both turned by the test."""

    passed: float = 0.0

    def turn(self, seconds: float) -> None:
        self.passed += seconds

    def wall(self) -> float:
        return time.time() + self.passed


@pytest.fixture
def hours(world: World) -> Hours:
    made = Hours()
    world.now = made.wall
    return made


def updater(world: World, reboot: Callable[[bool], None]) -> Updater:
    return assemble(
        world.config, host=world.device.host, writer=world.writer, reboot=reboot, now=world.now, pause=lambda _s: None
    )


def inhibited(_respect: bool) -> None:
    raise OSError("Operation inhibited by a scan")


def another_boot(world: World, number: int) -> None:
    """The machine starts, and the loader takes what ran before once more."""
    (world.device.root / "proc/sys/kernel/random/boot_id").write_text(f"{number:032x}\n")
    world.settle()


# -- armed ------------------------------------------------------------------------------------------------------------


def test_who_inhibits_a_reboot_uses_up_none(world: World, hours: Hours) -> None:
    world.publish(V2)
    for _ in range(3 * RESTARTS):
        updater(world, inhibited).run()
        hours.turn(HOUR)
    rebooted: list[bool] = []
    assert updater(world, rebooted.append).run()[0] is Outcome.REBOOTING
    assert rebooted == [True]
    assert boot(world.device) == V2


def test_a_version_that_the_loader_never_boots_is_given_up_and_the_next_one_comes(world: World) -> None:
    world.publish(V2)
    rebooted: list[bool] = []
    for number in range(RESTARTS):
        assert updater(world, rebooted.append).run()[0] is Outcome.REBOOTING
        another_boot(world, number)
    assert len(rebooted) == RESTARTS
    world.publish(V3)
    outcome, sentence = updater(world, rebooted.append).run()
    assert (outcome, V3 in sentence) == (Outcome.REBOOTING, True)
    assert ("quarantined", V2) in world.events()
    assert boot(world.device) == V3


def test_what_makes_the_loader_pass_a_version_over_is_taken_away(world: World) -> None:
    world.publish(V2)
    settings = world.device.esp / "loader/loader.conf"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("timeout 0\ndefault t640_2026.11.1.efi\npreferred x\nconsole-mode keep\n")
    for number in range(3):
        updater(world, lambda _respect: None).run()
        another_boot(world, number)
    assert settings.read_text() == "timeout 0\nconsole-mode keep\n"
    updater(world, lambda _respect: None).run()
    assert f"t640_{V1}+0-4.efi" in world.device.ukis()  # and if that was not it, ours steps aside
    assert boot(world.device) == V2


@pytest.mark.parametrize("called", ["9999.1.1", ""])
def test_a_kernel_image_that_calls_itself_another_version_is_refused_by_publisher_and_device(
    world: World, called: str
) -> None:
    """The loader orders entries by what they call themselves: it would be booted before every later release."""
    build = make_build(world.directory, V2)
    wrong = pe_file(f"roothash={build.root_hash} panic=10", called)
    (build.directory / f"t640_{V2}.efi").write_bytes(wrong)
    with pytest.raises(ArtifactError, match=r"calls itself|no \.osrel section"):
        world.put(build)
    (build.directory / f"t640_{V2}.efi").write_bytes(build.uki)
    world.put(build)
    here = world.settle()
    with here.store.locked():
        release = here.fetch()
        assert release is not None
        here.transfer.staged(release, release.artifacts[-1]).write_bytes(wrong)
        with pytest.raises(InstallError, match=r"nothing was written|no \.osrel section"):
            here.installer.fill_slot(release)
    assert world.device.writes == 0


def test_a_good_version_that_stepped_aside_for_one_that_does_not_come_has_its_entry_back(world: World) -> None:
    for version in (V2, V3):
        world.publish(version)
    world.updater().run()
    assert boot(world.device) == V3
    world.settle()
    amend(world.publisher, V2, "t640", downgrade=Downgrade((V3,), time.time() + DAY))
    updater(world, inhibited).run()
    assert f"t640_{V3}+0-4.efi" in world.device.ukis()
    by_hand = world.updater()
    with by_hand.store.locked():
        by_hand.settle()
        by_hand.mark_bad(V2, "not that one")
    world.settle()
    assert f"t640_{V3}.efi" in world.device.ukis()


# -- on trial ---------------------------------------------------------------------------------------------------------


def test_a_blessing_that_failed_is_asked_for_again_and_a_reboot_after_a_day(world: World) -> None:
    world.publish(V2)
    world.updater().run()
    assert boot(world.device) == V2
    good = world.device.uki_directory / f"t640_{V2}.efi"
    counted = good.rename(good.with_name(f"t640_{V2}+2-1.efi"))  # systemd-bless-boot could not write the ESP
    world.device.runtime.mkdir(parents=True, exist_ok=True)
    world.settle()
    (world.device.runtime / "gate.json").write_text(json.dumps({"passed": True, "version": V2, "reason": "", "at": 0}))
    rebooted: list[bool] = []
    asked: list[float] = []
    for uptime in (60.0, BLESSED_WITHIN, DAY):
        again = updater(world, rebooted.append)
        again.uptime, again.bless = lambda up=uptime: up, lambda up=uptime: asked.append(up)
        assert again.run()[0] is Outcome.WAITING
    assert asked == [BLESSED_WITHIN, DAY]
    assert rebooted == [True]
    last = updater(world, rebooted.append)
    last.uptime, last.bless = lambda: BLESSED_WITHIN, lambda: counted.rename(good)
    last.run()
    assert last.store.record.state is State.COMMITTED


@pytest.mark.parametrize("spoiled", ["an unknown state", "half a file", "no file"])
def test_a_trial_that_spoils_the_record_is_one_failure_all_the_same(
    world: World, hours: Hours, spoiled: str
) -> None:
    world.publish(V2)
    trials: list[float] = []
    rebooted: list[bool] = []
    for passed in (0.0, 1.0, 24.0, 1.0, 1.0, 1.0):
        hours.turn(passed * HOUR)
        updater(world, rebooted.append).run()
        if rebooted:
            rebooted.clear()
            trials.append(round(hours.passed / HOUR))
            spoil(world.device.state / "state.json", spoiled)
            assert boot(world.device, healthy={V1}) == V1
            world.settle()
    assert trials == [0, 25]
    kept = json.loads((world.device.state / "quarantine.json").read_text())["versions"][V2]
    assert kept["failures"] == 2
    assert world.events().count(("rolled_back", V2)) == 2


def spoil(path: Path, how: str) -> None:
    """What a version on trial may do to the record before it fails."""
    document = json.loads(path.read_text())
    if how == "no file":
        path.unlink()
    elif how == "half a file":
        path.write_text(path.read_text()[:100])
    else:
        path.write_text(json.dumps(document | {"state": "probation"}))


# -- waiting ----------------------------------------------------------------------------------------------------------


def test_a_time_signed_far_ahead_does_not_make_the_maintenance_window_stand_still(world: World, hours: Hours) -> None:
    ahead = time.time() + 300 * DAY
    closed = time.gmtime(ahead + 6 * HOUR).tm_hour
    world.config = replace(world.config, window=Window(f"{closed:02d}:00", f"{(closed + 2) % 24:02d}:00"))
    keep, world.now = world.now, lambda: ahead
    world.publish(V2)
    world.now = keep
    rebooted: list[bool] = []
    for _ in range(40):
        updater(world, rebooted.append).run()
        if rebooted:
            break
        hours.turn(HOUR)
    assert rebooted


def test_without_a_clock_an_update_waits_no_longer_than_it_may(world: World) -> None:
    """The clock stands at 1970 and at the image's build time for ever; hours of running count all the same."""
    world.config = replace(world.config, window=Window("02:00", "03:00", maximum_postponement_days=2.0))
    world.publish(V2)
    built = world.device.root / "usr/share/appliance-update/build-time"
    built.parent.mkdir(parents=True)
    noon = time.time() - time.time() % DAY - DAY / 2
    built.write_text(f"{noon:.0f}\n")
    world.now = lambda: 40.0
    rebooted: list[bool] = []
    for hour in range(60):
        here = updater(world, rebooted.append)
        here.uptime = lambda hour=hour: hour * HOUR
        here.run()
        if rebooted:
            break
    assert rebooted
    assert hour == 48


def test_unfinished_requests_do_not_starve_an_order(world: World) -> None:
    box = world.device.runtime / "requests"
    box.mkdir(parents=True)
    for number in range(100):
        (box / f".{number}.json").write_text("{}")
    (box / "order.json").write_text(json.dumps({"order_id": "order-7"}))
    world.updater().run()
    assert not (box / "order.json").exists()
    assert len(os.listdir(box)) == 100


def test_a_device_that_cannot_be_told_after_arming_is_not_left_armed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry would be booted, and nobody would know what for."""
    from appliance_update import updater as module
    from appliance_update.device import DeviceError

    world.publish(V2)
    here = world.settle()
    with here.store.locked():
        here.fetch()
        monkeypatch.setattr(module, "inspect", lambda *_: (_ for _ in ()).throw(DeviceError("the table is unreadable")))
        with pytest.raises(UpdateError, match="unreadable"):
            here.apply()
    assert world.device.ukis() == [f"t640_{V1}.efi"]
