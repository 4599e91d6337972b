"""The power fails, or a write fails, at every single place of an update. Afterwards the device always

- boots some slot, by itself, and never one whose content is not whole,
- still has the bytes of the version it ran,
- can be updated by simply running the updater again, to the end,
- and tells the truth about it once.

The places are `faults.point` calls: before and after every write of the updater, and every write of the simulated
systemd-sysupdate. A first run without faults counts them, then each is hit in turn (`make test-fast` takes a part).
This is the whole stack, with real metadata over HTTP; test_every_place.py goes through every other step.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance_update import faults, history
from appliance_update.layout import Role
from appliance_update.record import State
from appliance_update.store import Busy
from appliance_update.updater import Outcome, UpdateError
from tests.appliance_update.conftest import V1, V2, V3, World, fresh_device, make_world
from tests.appliance_update.simulator import Build, boot

pytestmark = pytest.mark.exhaustive

FAST = os.environ.get("HYPOTHESIS_PROFILE") == "fast"


class PowerCut(BaseException):
    """Nothing after this line of the program happens."""


def cut() -> BaseException:
    return PowerCut()


def input_output_error() -> BaseException:
    return OSError(errno.EIO, os.strerror(errno.EIO))


def no_space() -> BaseException:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Counter:
    """Counts fault points, and raises at the chosen one."""

    def __init__(self, at: int | None = None, error: Callable[[], BaseException] = cut) -> None:
        self.at, self.error = at, error
        self.names: list[str] = []

    def __call__(self, name: str) -> None:
        self.names.append(name)
        if self.at is not None and len(self.names) == self.at + 1:
            raise self.error()


def attempt(world: World, step: Callable[[], object], counter: Counter) -> None:
    """One run under the counter; expected errors are part of the game, crashes are not."""
    faults.set_hook(counter)
    try:
        with contextlib.suppress(PowerCut, UpdateError, OSError, Busy):
            step()
    finally:
        faults.set_hook(None)


def update(world: World) -> Callable[[], object]:
    return lambda: world.updater().run()


def places(world: World, step: Callable[[], object]) -> list[str]:
    """The names of all fault points of one undisturbed step."""
    counter = Counter()
    attempt(world, step, counter)
    return counter.names


def assert_bootable(world: World, running: Build) -> str:
    """Some slot boots; the running version's own bytes are as they were."""
    slot = next(slot for slot in "ab" if world.device.partition(Role.DATA, slot).uuid == running.data_uuid)
    assert world.device.content(Role.DATA, slot, len(running.data)) == running.data
    booted = boot(world.device)
    assert booted is not None
    assert len(set(world.device.boots)) == 1, f"a version that is not whole was tried: {world.device.boots}"
    return booted


def finish(world: World, target: str) -> None:
    """Whatever happened before: running the updater again and rebooting is all it takes."""
    for _ in range(4):
        if world.device.host.image_version != target:
            world.updater().run()
            boot(world.device)
        if world.settle().store.record.state is State.COMMITTED:
            break
    record = world.settle().store.record
    assert (record.state, record.good_version) == (State.COMMITTED, target)


def assert_truthful(world: World, target: str) -> None:
    """Every line of the history is readable, and nothing final is told twice."""
    entries, damaged = history.read(world.device.state / "history.jsonl")
    counts = collections.Counter((entry.event, entry.version) for entry in entries)
    assert damaged == 0
    assert counts["committed", target] == 1
    assert ("rolled_back", target) not in counts


@dataclass(frozen=True)
class Bench:
    """One repository with V2 in it, and any number of fresh devices that poll it."""

    shelf: World
    build: Build

    def device(self, name: str) -> World:
        return fresh_device(self.shelf, self.shelf.directory / name)

    def disturb(self, error: Callable[[], BaseException], every: int, offset: int) -> None:
        """Hit every `every`th place of an update, each on a device of its own."""
        counted = self.device("count")
        count = len(places(counted, update(counted)))
        assert count > 60
        for at in range(offset, count, every):
            world = self.device(f"at-{at}")
            running = Build(V1, *_facts(self.shelf))
            counter = Counter(at, error)
            attempt(world, update(world), counter)
            assert_bootable(world, running)
            finish(world, V2)
            assert world.device.content(Role.DATA, "b", len(self.build.data)) == self.build.data, counter.names[-1]
            assert_truthful(world, V2)
            shutil.rmtree(world.device.root)


@pytest.fixture
def bench(world: World) -> Bench:
    return Bench(world, world.publish(V2))


def _facts(world: World) -> tuple[Path, str, bytes, bytes, bytes]:
    directory = world.directory / f"build-{V1}-{world.device.flavour}"
    data, verity = next(directory.glob("*.data.*")), next(directory.glob("*.verity.*"))
    root_hash = data.name.split(".data.")[1][:32] + verity.name.split(".verity.")[1][:32]
    return directory, root_hash, data.read_bytes(), verity.read_bytes(), next(directory.glob("*.efi")).read_bytes()


def test_after_a_power_cut_at_any_place_the_update_goes_on(bench: Bench) -> None:
    bench.disturb(cut, 4 if FAST else 1, 0)


def test_after_an_input_output_error_at_any_place_the_update_can_be_repeated(bench: Bench) -> None:
    bench.disturb(input_output_error, 18 if FAST else 6, 1)


def test_after_a_full_disk_at_any_place_the_update_can_be_repeated(bench: Bench) -> None:
    bench.disturb(no_space, 18 if FAST else 6, 3)


def test_five_cuts_in_a_row_over_two_updates_do_no_harm(quick: Path, key_directory: Path) -> None:
    world = make_world(quick / "random", key_directory)
    try:
        for target, steps in ((V2, (3, 17, 40, 55, 70)), (V3, (5, 29, 47, 61, 77))):
            running = Build(world.device.host.image_version, *_facts(world)) if target == V2 else None
            world.publish(target)
            for at in steps:
                attempt(world, update(world), Counter(at))
                if running:
                    assert_bootable(world, running)
                assert boot(world.device) is not None
                world.settle()
            finish(world, target)
            assert_truthful(world, target)
    finally:
        world.server.close()


def test_a_rollback_is_recorded_once_wherever_the_power_fails_while_recording_it(bench: Bench) -> None:
    def failed(name: str) -> World:
        world = bench.device(name)
        world.updater().run()
        assert boot(world.device, healthy={V1}) == V1
        return world

    counted = failed("count")
    count = len(places(counted, counted.settle))
    assert count >= 8
    for at in range(count):
        world = failed(f"at-{at}")
        attempt(world, world.settle, Counter(at))
        boot(world.device, healthy={V1})
        record = world.settle().store.record
        assert record.state is State.ROLLED_BACK
        events = world.events()
        assert [events.count((event, V2)) for event in ("rolled_back", "quarantined")] == [1, 1]
        assert world.updater().run()[0] is Outcome.UP_TO_DATE


def test_while_the_other_slot_is_being_written_no_entry_boots_it(world: World) -> None:
    """Also when it held a good version before: the fence comes first."""
    world.publish(V2)
    world.updater().run()
    boot(world.device)
    world.settle()
    world.publish(V3)
    seen: list[tuple[str, list[str]]] = []
    faults.set_hook(lambda name: seen.append((name, world.device.ukis())))
    world.updater().run()
    faults.set_hook(None)
    writing = [ukis for name, ukis in seen if name.startswith(("partition:", "table:"))]
    assert writing
    assert all(ukis == [f"t640_{V2}.efi"] for ukis in writing)


def test_the_entry_appears_only_after_the_slot_was_read_back(world: World) -> None:
    world.publish(V2)
    order: list[str] = []
    faults.set_hook(order.append)
    world.updater().run()
    armed = next(index for index, name in enumerate(order) if name.startswith(f"entry rename:t640_{V2}+"))
    assert order.index("slot:written") < order.index("uki:write") < order.index("slot:read back") < armed


def test_each_state_is_on_disk_before_its_step_begins(world: World) -> None:
    world.publish(V2)
    seen: dict[str, str] = {}

    def note(name: str) -> None:
        path = world.device.state / "state.json"
        seen.setdefault(name, json.loads(path.read_text())["state"] if path.exists() else "idle")

    faults.set_hook(note)
    world.updater().run()
    expected = {
        "tuf:refresh": "checking", "chunk:data": "downloading", "verify:data": "verifying",
        "slot:write": "staging", "slot:read back": "staging", "reboot": "armed",
    }  # fmt: skip
    assert {name: seen[name] for name in expected} == expected
