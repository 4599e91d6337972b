"""When a release is installed, and when it is not: windows, postponement, quarantine, epochs, downgrades, dead ends."""

from __future__ import annotations

import json
import time

import pytest

from appliance_update import quarantine, record
from appliance_update.config import Window
from appliance_update.quarantine import DAY
from appliance_update.record import State
from appliance_update.release import Downgrade
from appliance_update.updater import Outcome, UpdateError
from tests.appliance_update.conftest import V1, V2, V3, World
from tests.appliance_update.databases import Services
from tests.appliance_update.simulator import boot

HOUR = 3600.0


class Clock:
    """The device's clock; the publisher's stays right."""

    def __init__(self, world: World) -> None:
        self.world, self.ahead = world, 0.0
        world.now = lambda: time.time() + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += seconds

    def publish(self, version: str, **changes: object) -> None:
        ahead, self.ahead = self.ahead, 0.0
        self.world.publish(version, **changes)
        self.ahead = ahead


@pytest.fixture
def clock(world: World) -> Clock:
    return Clock(world)


def closed(days: float = 14.0) -> Window:
    """A window that opens in an hour or two, for a minute, on a day that is not today or tomorrow."""
    day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(time.gmtime().tm_wday + 3) % 7]
    return Window("03:00", "03:01", days=(day,), maximum_postponement_days=days)


def fail(world: World, version: str) -> None:
    """`version` is armed; it fails three times, and the device is back."""
    boot(world.device, healthy={V1})
    assert world.device.boots.count(version) == 3
    world.settle()


# -- windows and postponement -----------------------------------------------------------------------------------------


def test_what_waits_for_its_window_is_fetched_and_says_until_when(world: World, clock: Clock) -> None:
    world.publish(V2)
    assert world.updater(window=closed()).run()[0] is Outcome.WAITING
    said = json.loads((world.device.runtime / "status.json").read_text())
    assert 0 < said["postponed_until"] - time.time() <= 4 * DAY
    assert world.events()[-1] == ("postponed", V2)


def test_after_the_longest_postponement_it_goes_ahead_and_says_so(world: World, clock: Clock) -> None:
    world.publish(V2)
    never = Window("03:00", "03:00", days=closed().days, maximum_postponement_days=0.5)
    for _ in range(12):
        assert world.updater(window=never).run()[0] is Outcome.WAITING
        clock.advance(HOUR)
    assert world.updater(window=never).run()[0] is Outcome.REBOOTING
    assert world.events().count(("overdue", V2)) == 1
    assert world.rebooted == [True], "at the next quiet minute: whoever inhibits is respected"
    assert boot(world.device) == V2


def test_a_new_release_every_day_does_not_postpone_for_ever(world: World, clock: Clock) -> None:
    for number in range(2, 9):
        clock.publish(f"2026.11.{number}")
        outcome, _ = world.updater(window=closed(3.0)).run()
        clock.advance(DAY)
        if outcome is Outcome.REBOOTING:
            break
    assert outcome is Outcome.REBOOTING


def test_a_clock_that_jumps_ten_years_does_not_end_the_postponement(world: World, clock: Clock) -> None:
    world.publish(V2)
    assert world.updater(window=closed()).run()[0] is Outcome.WAITING
    clock.advance(10 * 365 * DAY)
    world.server.close()  # and what is fetched goes on without a repository
    assert world.updater(window=closed()).run()[0] is Outcome.WAITING
    assert world.rebooted == []


def test_an_armed_version_waits_for_the_window_too_and_not_longer(world: World, clock: Clock) -> None:
    world.publish(V2)
    world.updater(reboot=False).run()
    for _ in range(4):
        outcome, _ = world.updater(window=closed(3.0)).run()
        clock.advance(DAY)
    assert outcome is Outcome.REBOOTING


def test_after_the_commit_nothing_is_postponed_any_more(world: World, clock: Clock) -> None:
    world.publish(V2)
    world.updater(window=closed()).run()
    world.updater().run()
    boot(world.device)
    found = world.settle().store.record
    assert (found.waited, found.postponed_until) == (0.0, 0.0)


# -- quarantine -------------------------------------------------------------------------------------------------------


def test_a_version_that_failed_is_offered_again_after_1_4_and_16_days_and_then_never(
    world: World, clock: Clock
) -> None:
    world.publish(V2)
    for pause in (1, 4, 16):
        assert world.updater().run()[0] is Outcome.REBOOTING
        fail(world, V2)
        clock.advance(pause * DAY - HOUR)
        assert world.updater().run()[0] is Outcome.UP_TO_DATE, f"less than {pause} days"
        clock.advance(2 * HOUR)
        renew(world, clock)
    assert world.updater().run()[0] is Outcome.REBOOTING
    fail(world, V2)
    clock.advance(20 * DAY)
    renew(world, clock)
    assert world.updater().run()[0] is Outcome.UP_TO_DATE
    assert world.events().count(("rolled_back", V2)) == 4
    assert world.settle().store.status().quarantine[V2].until is None


def renew(world: World, clock: Clock) -> None:
    """The publisher's clock goes on too, so that its metadata does not expire."""
    from dataclasses import replace

    replace(world.publisher, now=world.now()).renew()


def test_the_second_try_may_succeed(world: World, clock: Clock) -> None:
    world.publish(V2)
    world.updater().run()
    fail(world, V2)
    clock.advance(DAY + HOUR)
    assert world.updater().run()[0] is Outcome.REBOOTING
    assert boot(world.device) == V2
    assert world.settle().store.record.state is State.COMMITTED


def test_a_power_cut_before_the_second_try_is_no_second_failure(world: World, clock: Clock) -> None:
    world.publish(V2)
    world.updater().run()
    fail(world, V2)
    clock.advance(DAY + HOUR)
    updater = world.settle()
    with updater.store.locked():
        updater.fetch()
    boot(world.device, healthy={V1})
    world.settle()
    assert world.events().count(("rolled_back", V2)) == 1
    assert world.updater().run()[0] is Outcome.REBOOTING


def test_what_was_marked_bad_by_hand_never_comes_back(world: World, clock: Clock) -> None:
    world.publish(V2)
    updater = world.settle()
    with updater.store.locked():
        updater.mark_bad(V2, "the printer")
    clock.advance(100 * DAY)
    renew(world, clock)
    assert world.updater().run()[0] is Outcome.UP_TO_DATE


def test_a_failure_that_a_wrong_clock_put_into_the_future_does_not_last_ten_years(world: World, clock: Clock) -> None:
    world.publish(V2)
    world.updater().run()
    clock.advance(10 * 365 * DAY)
    fail(world, V2)
    clock.advance(-10 * 365 * DAY)
    assert world.updater().run()[0] is Outcome.UP_TO_DATE
    clock.advance(DAY + HOUR)
    assert world.updater().run()[0] is Outcome.REBOOTING


def test_a_lost_quarantine_is_known_again_by_the_spent_entry(world: World, clock: Clock) -> None:
    world.publish(V2)
    world.updater().run()
    fail(world, V2)
    (world.device.state / "quarantine.json").unlink()
    assert world.updater().run()[0] is Outcome.UP_TO_DATE
    assert V2 in quarantine.load(world.device.state / "quarantine.json").versions


def test_status_tells_until_when_a_version_is_put_away(world: World, clock: Clock) -> None:
    world.publish(V2)
    world.updater().run()
    fail(world, V2)
    term = world.settle().store.status().quarantine[V2]
    assert term.until is not None
    assert abs(term.until - time.time() - DAY) < HOUR


# -- security epochs and downgrades -----------------------------------------------------------------------------------


def test_the_security_epoch_rises_when_a_version_is_committed_and_not_before(world: World) -> None:
    world.publish(V2, security_epoch=7)
    world.updater().run()
    fail(world, V2)
    assert world.settle().store.record.security_epoch == 0
    world.publish(V3, security_epoch=8)
    world.updater().run()
    boot(world.device)
    assert world.settle().store.record.security_epoch == 8
    assert world.settle().store.status().security_epoch == 8


def test_losing_the_record_does_not_lower_the_epoch(world: World) -> None:
    world.publish(V2, security_epoch=7)
    world.settle()
    record.save_epoch(world.device.state, 8)
    (world.device.state / "state.json").write_text("{")
    outcome, sentence = world.updater().run()
    assert outcome is Outcome.UP_TO_DATE
    assert "security epoch 7 is lower than 8" in sentence


@pytest.fixture
def downgrade(world: World) -> Services:
    """V3 is committed and has migrated its databases; V2 is offered as a signed downgrade and is armed."""
    services = Services(world.device, knows={V3: 2})
    services.start()
    world.publish(V3)
    world.updater().run()
    boot(world.device)
    world.settle()
    services.start()
    assert services.schema() == 2
    world.publish(V2, downgrade=Downgrade((V3,), int(time.time() + DAY)))
    assert world.updater().run()[0] is Outcome.REBOOTING
    return services


def test_a_signed_dated_downgrade_is_booted_though_the_loader_prefers_the_higher_version(
    world: World, downgrade: Services
) -> None:
    assert boot(world.device) == V2
    assert world.settle().store.record.good_version == V2
    assert boot(world.device) == V2, "and it stays"
    assert world.updater().run()[0] is Outcome.UP_TO_DATE


def test_after_a_downgrade_the_databases_are_read_on(world: World, downgrade: Services) -> None:
    """What a version left weeks ago does not come back with it: it would undo weeks of the clinic's work."""
    boot(world.device)
    world.restore()
    downgrade.start()
    world.settle()
    assert downgrade.rows() == [V1, V3, V2]
    downgrade.check_evidence()


def test_a_downgrade_that_fails_ends_where_it_began(world: World, downgrade: Services) -> None:
    assert boot(world.device, healthy={V3}) == V3
    assert world.device.boots == [V2, V2, V2, V3]
    world.restore()
    downgrade.start()
    found = world.settle().store.record
    assert (found.state, found.good_version) == (State.ROLLED_BACK, V3)
    assert world.device.ukis() == [f"t640_{V3}.efi", f"t640_{V2}+0-3.efi"], "blessed again"
    assert downgrade.schema() == 2
    assert world.updater().run()[0] is Outcome.UP_TO_DATE


def test_a_downgrade_that_nobody_signed_is_not_taken(world: World) -> None:
    world.publish(V3)
    world.updater().run()
    boot(world.device)
    world.settle()
    world.rebooted.clear()
    assert world.updater().run()[0] is Outcome.UP_TO_DATE
    assert world.rebooted == []


# -- dead ends --------------------------------------------------------------------------------------------------------


def test_when_both_slots_fail_the_device_stays_up_and_takes_the_next_update(world: World) -> None:
    """V1 is spent, V2 fails three times and is booted a fourth time: the loader has nothing better."""
    (world.device.uki_directory / f"t640_{V1}.efi").rename(world.device.uki_directory / f"t640_{V1}+0-4.efi")
    world.publish(V2)
    world.updater().run()
    assert boot(world.device, healthy=set(), limit=4) is None
    assert world.device.boots == [V2] * 4
    found = world.settle().store.record
    assert found.state is State.QUARANTINED
    assert "it was booted all the same" in found.detail
    world.publish(V3)
    assert world.updater().run()[0] is Outcome.REBOOTING
    assert boot(world.device) == V3
    assert world.settle().store.record.good_version == V3


def test_the_third_and_last_try_is_still_a_trial(world: World) -> None:
    world.publish(V2)
    world.updater().run()
    assert boot(world.device, healthy=set(), limit=3) is None
    assert world.settle().store.record.state is State.TRIAL
    assert "0 tries left" in world.settle().store.record.detail


def test_a_full_esp_is_said_before_anything_is_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    real = shutil.disk_usage

    def usage(path: object) -> object:
        found = real(path)  # type: ignore[arg-type]
        return found._replace(free=1000) if str(path).endswith("/boot") else found

    world.publish(V2)
    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(UpdateError, match=r"The ESP at .* has room for 1 KiB"):
        world.updater().run()
    assert world.device.writes == 0
    assert world.device.ukis() == [f"t640_{V1}.efi"]


def test_status_shows_people_every_term_there_is(world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postponed until, put away until, whose databases are kept, which orders wait, what was doubted."""
    from click.testing import CliRunner

    from appliance_update import cli, machine, thoughts
    from appliance_update.cli import main

    Services(world.device).start()
    world.publish(V2)
    world.updater().run()
    fail(world, V2)
    world.publish(V3, security_epoch=4)
    world.updater(window=closed()).run()
    record.save_epoch(world.device.state, 3)
    updater = world.updater()
    with updater.store.locked():
        updater.store.save(order_id="order-1", waiting_orders=("order-2",))
        updater.snapshots.take(V1)
    thoughts.save(world.device.state, V2, thoughts.Thought(V1, "agent.service kept failing", 1.0))
    monkeypatch.setattr(cli, "assemble", lambda config: machine.assemble(config, host=world.device.host))
    path = world.directory / "config.toml"
    paths = world.config.paths
    path.write_text(f'[paths]\nlayout = "{paths.layout}"\nstate = "{paths.state}"\nruntime = "{paths.runtime}"\n')
    said = CliRunner().invoke(main, ["--config", str(path), "status"], env={"COLUMNS": "200"}).output
    for expected in (
        "postponed        until 2", "order-1, then order-2", "security epoch   3", f"databases as {V1} left them",
        f"{V2} until 2", f"{V2}: agent.service kept failing (begun, {V1})",
    ):  # fmt: skip
        assert expected in said, said
