"""Cases 64 to 70: what the fleet and its operators do to a device."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pytest

from appliance_release import publishing
from appliance_release.releases import Downgrade
from appliance_update import history
from appliance_update.record import State
from appliance_update.store import Busy
from tests.appliance_update.conftest import V1, V2, V3
from tests.appliance_update.simulator import boot
from tests.faults.bench import Bench
from tests.faults.marks import fault

V4 = "2026.11.11"
DAY = 86_400.0


def request(bench: Bench, order_id: str, version: str = "") -> None:
    """What the agent drops into the box for an order."""
    folder = bench.world.device.runtime / "requests"
    folder.mkdir(parents=True, exist_ok=True)
    document = {"order_id": order_id, "version": version, "requested_at": time.time()}
    (folder / f"{order_id}.json").write_text(json.dumps(document))


@fault(64)
def test_an_unsigned_downgrade_is_not_obeyed(bench: Bench) -> None:
    """An order for an older version, and a repository that offers only older ones."""
    bench.publish(V2)
    bench.run()
    assert bench.boot() == V2
    request(bench, "back", V1)
    bench.run()
    assert bench.boot() == V2
    bench.holds(V3, "an order names a wish; only signed metadata leads back")


@fault(64)
@pytest.mark.parametrize("dated", ["in time", "too late"])
def test_a_signed_dated_downgrade_is_obeyed_until_its_date(bench: Bench, dated: str) -> None:
    bench.publish(V2)
    bench.publish(V3)
    bench.run()
    assert bench.boot() == V3
    until = time.time() + (DAY if dated == "in time" else -DAY)
    bench.world.publisher = replace(bench.world.publisher, now=time.time())
    publishing.amend(bench.world.publisher, V2, "t640", downgrade=Downgrade((V3,), until))
    bench.run()
    assert bench.boot() == (V2 if dated == "in time" else V3)
    bench.holds(V4, "obeyed until its date, and not after it")


@fault(65)
def test_the_version_that_failed_here_is_offered_again(bench: Bench) -> None:
    bench.publish(V2, good=False)
    bench.run()
    assert bench.boot() == V1
    for _ in range(3):
        bench.run()
        assert bench.boot() == V1
        assert not any(f"{V2}+3" in name for name in bench.world.device.ukis())
    bench.holds(V3, "quarantined, with the reason; a higher version is taken")


@fault(66)
def test_two_orders_and_two_updaters_at_once(bench: Bench) -> None:
    bench.publish(V2)
    request(bench, "one", V2)
    request(bench, "two", V2)
    busy: list[BaseException] = []

    def second() -> None:
        try:
            bench.world.updater().run()
        except Busy as error:
            busy.append(error)

    def begin_another(name: str) -> bool:
        if name == "partition:5" and not busy:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join(30)
        return False

    bench.cut_at(begin_another)
    assert len(busy) == 1
    assert bench.boot() == V2
    installed = [event for event in bench.world.events() if event == ("installed", V2)]
    assert len(installed) == 1
    bench.holds(V3, "the second one is told so; one installation, one history")


@fault(67)
def test_an_order_arrives_during_the_rollback(bench: Bench) -> None:
    bench.publish(V2, good=False)
    bench.run()
    assert boot(bench.world.device, healthy={V1}, limit=2) is None
    request(bench, "late", V2)
    assert bench.boot() == V1
    request(bench, "later", V2)
    said = bench.run()
    assert "failed here" in said or "quarantine" in said, said
    assert bench.world.settle().store.record.state in (State.QUARANTINED, State.ROLLED_BACK, State.IDLE)
    bench.holds(V3, "answered with the reason; the rollback is not disturbed")


@fault(68)
def test_the_first_devices_of_a_rollout_fail(bench: Bench) -> None:
    """The publisher withdraws it; a device that had not taken it never does, one that failed is back already."""
    bench.publish(V2, good=False)
    bench.run()
    assert bench.boot() == V1
    bench.world.publisher = replace(bench.world.publisher, now=time.time())
    publishing.revoke(bench.world.publisher, V2, "t640", "devices failed", purge=False, unproven=False)
    bench.run()
    assert bench.boot() == V1
    assert V2 not in json.dumps([entry.__dict__ for entry in _after_last_quarantine(bench)])
    bench.holds(V3, "withdrawn: nobody else takes it")


def _after_last_quarantine(bench: Bench) -> list[history.Entry]:
    entries, _ = history.read(bench.world.device.state / "history.jsonl")
    last = max((index for index, entry in enumerate(entries) if entry.event == "quarantined"), default=-1)
    return entries[last + 1 :]


@fault(69)
def test_a_device_was_off_for_twelve_releases(bench: Bench) -> None:
    """Every fourth release is a stepping stone without which the next ones were not proven."""
    stone = V1
    for number in range(2, 14):
        version = f"2026.12.{number}"
        proven = (stone, *(f"2026.12.{earlier}" for earlier in range(2, number)))
        bench.publish(version, from_versions=tuple(sorted(set(proven[:1]) | set(proven[-3:]))))
        if number % 4 == 0:
            stone = version
    newest = "2026.12.13"
    seen = []
    for _ in range(12):
        bench.run()
        seen.append(bench.boot())
        if seen[-1] == newest:
            break
    assert seen[-1] == newest, seen
    assert len(seen) < 12
    bench.report.runs = len(seen)
    bench.holds("2026.12.14", "over the stepping stones, in their order")


@fault(70)
def test_the_servers_acknowledgements_are_lost(bench: Bench) -> None:
    """The same order comes three times: one update, and the truth each time."""
    bench.publish(V2)
    request(bench, "same", V2)
    bench.run()
    assert bench.boot() == V2
    for _ in range(2):
        request(bench, "same", V2)
        bench.run()
        assert bench.boot() == V2
    events = bench.world.events()
    assert [events.count((event, V2)) for event in ("installed", "committed")] == [1, 1]
    status = json.loads((bench.world.device.runtime / "status.json").read_text())
    assert status["running_version"] == V2
    assert status["state"] in ("committed", "idle")
    entries, _ = history.read(bench.world.device.state / "history.jsonl")
    assert [entry.order_id for entry in entries if entry.event == "committed"] == ["same"]
    bench.holds(V3, "idempotent: one update, and its end is told again")
