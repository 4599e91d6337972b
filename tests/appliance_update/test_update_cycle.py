"""The whole way, as it goes when nothing goes wrong, and when the new version does."""

from __future__ import annotations

import json

import pytest

from appliance_update import history
from appliance_update.layout import Role
from appliance_update.record import State
from appliance_update.updater import Failure, Outcome, UpdateError
from tests.appliance_update.conftest import V1, V2, V3, World
from tests.appliance_update.simulator import boot


def test_a_published_release_is_installed_tried_and_committed(world: World) -> None:
    build = world.publish(V2)
    assert world.updater().run() == (Outcome.REBOOTING, f"{V2} is installed; the next boot tries it")
    assert world.rebooted == [True]
    assert world.device.ukis() == [f"t640_{V1}.efi", f"t640_{V2}+3-0.efi"]
    assert world.device.content(Role.DATA, "b", len(build.data)) == build.data

    assert boot(world.device) == V2
    updater = world.settle()
    assert updater.store.record.state is State.COMMITTED
    assert updater.store.record.good_version == V2
    assert world.events() == [("download_started", V2), ("installed", V2), ("committed", V2)]


def test_the_second_hop_goes_into_the_slot_that_the_first_left(world: World) -> None:
    for version, slot in ((V2, "b"), (V3, "a")):
        build = world.publish(version)
        world.updater().run()
        assert boot(world.device) == version
        assert world.device.content(Role.DATA, slot, len(build.data)) == build.data
        world.settle()
    assert world.device.ukis() == [f"t640_{V3}.efi", f"t640_{V2}.efi"]


def test_a_version_that_fails_its_gate_three_times_is_rolled_back_and_quarantined(world: World) -> None:
    world.publish(V2)
    world.updater().run()
    assert boot(world.device, healthy={V1}) == V1
    assert world.device.boots == [V2, V2, V2, V1]

    updater = world.settle()
    assert updater.store.record.state is State.ROLLED_BACK
    assert V2 in updater.store.put_away_versions()
    assert world.events()[-2:] == [("rolled_back", V2), ("quarantined", V2)]

    world.rebooted.clear()
    outcome, sentence = world.updater().run()
    assert outcome is Outcome.UP_TO_DATE
    assert "failed here" in sentence
    assert world.rebooted == []


def test_a_quarantined_version_gives_way_to_a_higher_one(world: World) -> None:
    world.publish(V2)
    world.updater().run()
    boot(world.device, healthy={V1})
    world.publish(V3)
    world.updater().run()
    assert boot(world.device) == V3
    assert world.settle().store.record.state is State.COMMITTED


def test_a_panicking_version_is_rolled_back_with_the_reason_that_no_boot_reached_the_gate(world: World) -> None:
    build = world.publish(V2)
    world.updater().run()
    slot = world.device.partition(Role.DATA, "b")
    with world.device.disk.open("r+b") as file:
        file.seek(slot.start + 5)
        file.write(b"\xff\xff")
    assert build.data[5:7] != b"\xff\xff"
    assert boot(world.device) == V1
    assert "none reached the gate" in world.settle().store.record.detail


def test_the_gates_last_word_becomes_the_reason_of_the_rollback(world: World) -> None:
    world.publish(V2)
    world.updater().run()
    boot(world.device, healthy={V1})
    verdict = {"version": V2, "passed": False, "reason": "portal: does not answer", "at": 1.0}
    (world.device.state / "last-gate.json").write_text(json.dumps(verdict))
    assert "portal: does not answer" in world.settle().store.record.detail


def test_nothing_is_installed_while_the_running_version_is_on_trial(world: World) -> None:
    world.publish(V2)
    world.publish(V3)
    (world.device.uki_directory / f"t640_{V1}.efi").rename(world.device.uki_directory / f"t640_{V1}+2-1.efi")
    with pytest.raises(UpdateError, match="still on trial") as caught:
        world.updater().run()
    assert caught.value.failure is Failure.DEVICE
    assert world.device.ukis() == [f"t640_{V1}+2-1.efi"]


def test_a_trial_is_waited_for(world: World) -> None:
    world.publish(V2)
    world.updater().run()
    world.publish(V3)
    boot(world.device)
    (world.device.uki_directory / f"t640_{V2}.efi").rename(world.device.uki_directory / f"t640_{V2}+2-1.efi")
    outcome, sentence = world.updater().run()
    assert outcome is Outcome.WAITING
    assert "on trial" in sentence
    assert ("trial_started", V2) in world.events()


def test_when_every_entry_is_spent_an_update_is_the_way_out(world: World) -> None:
    (world.device.uki_directory / f"t640_{V1}.efi").rename(world.device.uki_directory / f"t640_{V1}+0-4.efi")
    world.publish(V2)
    assert world.updater().run()[0] is Outcome.REBOOTING
    assert boot(world.device) == V2


def test_up_to_date_is_said_and_nothing_is_touched(world: World) -> None:
    assert world.updater().run() == (Outcome.UP_TO_DATE, f"{V1} is up to date")
    assert world.device.writes == 0


def test_a_demoted_good_version_is_recognised_after_the_other_slot_booted(world: World) -> None:
    world.publish(V2)
    world.updater().run()
    boot(world.device)
    world.settle()
    (world.device.uki_directory / f"t640_{V2}.efi").rename(world.device.uki_directory / f"t640_{V2}+0-1.efi")
    assert boot(world.device) == V1
    updater = world.settle()
    assert updater.store.record.state is State.ROLLED_BACK
    assert V2 in updater.store.put_away_versions()


def test_the_window_holds_back_installation_but_not_the_download(world: World) -> None:
    import datetime

    from appliance_update.config import Window

    hour = datetime.datetime.now(datetime.UTC).hour
    closed = Window(start=f"{(hour + 2) % 24:02}:00", end=f"{(hour + 4) % 24:02}:00")
    world.publish(V2)
    outcome, sentence = world.updater(window=closed).run()
    assert outcome is Outcome.WAITING
    assert "maintenance window" in sentence
    assert world.device.ukis() == [f"t640_{V1}.efi"]
    world.server.close()
    assert world.updater().run()[0] is Outcome.REBOOTING, "what is fetched is installed without an uplink"


def order(world: World, order_id: str) -> None:
    requests = world.device.runtime / "requests"
    requests.mkdir(parents=True, exist_ok=True)
    (requests / f"{order_id}.json").write_text(json.dumps({"order_id": order_id, "requested_at": 1}))


def events_of(world: World, order_id: str) -> list[str]:
    entries, _ = history.read(world.device.state / "history.jsonl")
    return [entry.event for entry in entries if entry.order_id == order_id]


def test_whoever_orders_an_update_learns_each_time_why_there_is_none(world: World) -> None:
    """The agent follows its order by the journal and the status alone."""
    order(world, "order-1")
    world.updater().run()
    said = world.updater().store
    said.load()
    assert (said.status().state, said.status().order_id) == ("idle", "order-1")

    world.publish(V2)
    order(world, "order-1")
    world.updater().run()
    boot(world.device, healthy={V1})
    world.settle()
    assert events_of(world, "order-1") == ["download_started", "installed", "rolled_back", "quarantined"]

    order(world, "order-2")
    world.updater().run()
    assert events_of(world, "order-2") == ["quarantined"]

    world.server.close()
    for _ in range(2):
        order(world, "order-3")
        with pytest.raises(UpdateError):
            world.updater().run()
    assert events_of(world, "order-3") == ["check_failed", "check_failed"]


def test_nothing_else_is_fetched_while_a_version_waits_for_its_boot(world: World) -> None:
    world.publish(V2)
    world.updater().run()
    world.publish(V3)
    updater = world.settle()
    with updater.store.locked(), pytest.raises(UpdateError, match=f"First {V2} must prove itself"):
        updater.fetch()
    assert boot(world.device) == V2
    assert world.settle().store.record.state is State.COMMITTED


def test_a_release_that_could_not_be_fetched_leaves_no_half_state_behind(world: World) -> None:
    world.publish(V2)
    world.server.only, world.server.flip = ".data.", 40
    with pytest.raises(UpdateError):
        world.updater().run()
    updater = world.settle()
    assert (updater.store.record.state, updater.store.record.candidate) == (State.IDLE, None)


def test_status_shows_slots_and_order_to_everybody(world: World) -> None:
    world.publish(V2)
    order(world, "order-7")
    world.updater().run()
    path = world.device.runtime / "status.json"
    said = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o644
    assert said["state"] == "armed"
    assert said["order_id"] == "order-7"
    assert said["candidate_version"] == V2
    assert said["slots"]["a"] == {"version": V1, "state": "booted", "blessed": True}
    assert said["slots"]["b"] == {"version": V2, "state": "standby", "blessed": False}
    assert list((world.device.runtime / "requests").iterdir()) == []
