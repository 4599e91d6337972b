"""A generation that turned bad after its commit is left once for the good one before it, and never twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance_update import thoughts, watch
from appliance_update.host import Host
from appliance_update.nix_store import present
from appliance_update.record import State
from appliance_update.thoughts import Stage
from tests.appliance_update.appliance import Disturbance, disturbed
from tests.appliance_update.conftest import World
from tests.appliance_update.nixos_host import NixosHost
from tests.appliance_update.watching import CRASHING

VERSIONS = ("2026.11.1", "2026.11.2", "2026.11.3")


def committed(root: Path, names: Sequence[str] = ("one", "two")) -> tuple[NixosHost, list[str]]:
    """A host on which systems proved themselves one after the other; the last one runs."""
    host = NixosHost(root)
    systems = [host.system(name, version) for name, version in zip(names, VERSIONS, strict=False)]
    host.deploy(systems[0])
    for system in systems[1:]:
        install(host, system)
    host.rebooted.clear()
    return host, systems


def install(host: NixosHost, system: str) -> None:
    host.signed_paths.add(system)
    host.ask(f"order-{system[11:19]}", store_path=system)
    host.updater().run()
    assert host.boot() == system
    settle(host)


def settle(host: NixosHost) -> State:
    updater = host.updater()
    with updater.store.locked():
        updater.settle()
    return updater.store.record.state


def crash(host: NixosHost, count: int = 4) -> str:
    """Some looks, a quarter of an hour apart, at an agent that keeps dying; the last one's sentence."""
    said = ""
    for number in range(count):
        said = host.watch(units=lambda _units: CRASHING, uptime=lambda number=number: 900.0 * (number + 1)).look()  # type: ignore[misc]
    return said


def stage(host: NixosHost, system: str) -> Stage | None:
    known = thoughts.load(host.updater().store.state)
    assert known is not None
    return known.versions[system].stage if system in known.versions else None


def states(host: NixosHost) -> dict[str, str]:
    """What the loader would say of each system."""
    words = {True: "good", False: "counted"}
    return {entry.system: "spent" if entry.spent else words[entry.blessed] for entry in host.entries}


def test_the_one_before_proves_itself_and_the_bad_one_leaves_profile_and_esp_for_good(quick: Path) -> None:
    host, (one, two) = committed(quick / "root")
    assert "agent.service kept failing" in crash(host)
    assert host.rebooted == [True]
    assert states(host) == {one: "counted", two: "good"}, "what turned bad stays something to come back to"
    assert host.locked
    assert host.boot() == one
    assert settle(host) is State.ROLLED_BACK
    assert stage(host, two) is Stage.OTHER_KEPT
    assert "for good" in host.updater().store.put_away_versions()[two]
    assert (present(host.profile), states(host)) == (one, {one: "good"})
    assert not host.locked
    assert host.boot() == one, "and it stays after the next power cut"


def test_a_fixed_one_is_installed_over_it(quick: Path) -> None:
    host, (one, two) = committed(quick / "root")
    crash(host)
    host.boot()
    settle(host)
    install(host, host.system("three", VERSIONS[2]))
    assert states(host)[one] == "good"
    assert two not in states(host)


def test_when_the_one_before_fails_too_it_comes_back_and_is_never_left_again(quick: Path) -> None:
    host, (one, two) = committed(quick / "root")
    crash(host)
    assert host.boot(healthy=[two]) == two
    assert settle(host) is State.IDLE
    assert stage(host, two) is Stage.CAME_BACK
    assert states(host) == {one: "good", two: "good"}, "what was good can be fallen back to"
    assert not host.locked
    assert host.boot() == two, "it is preferred again"
    host.rebooted.clear()
    assert "it stays" in crash(host, 20)
    assert host.rebooted == []


def test_of_several_the_newest_before_it_is_tried(quick: Path) -> None:
    host, (one, two, three) = committed(quick / "root", ("one", "two", "three"))
    crash(host)
    assert states(host) == {one: "good", two: "counted", three: "good"}
    assert host.boot(healthy=[one, three]) == three, "and should that one fail, what ran comes back, not an older one"


def test_after_somebody_went_back_by_hand_a_later_one_is_better_than_none(quick: Path) -> None:
    host, (one, two) = committed(quick / "root")
    host.set_profile(host.profile, one)
    host.install_loader(one)
    assert host.boot() == one
    settle(host)
    assert "is tried" in crash(host)
    assert host.boot() == two


def test_without_another_that_was_good_it_stays(quick: Path) -> None:
    host, (one,) = committed(quick / "root", ("one",))
    assert "no other generation that was good" in crash(host, 6)
    assert host.rebooted == []
    assert stage(host, one) is None


def test_one_that_failed_here_or_was_collected_is_nothing_to_go_back_to(quick: Path) -> None:
    host, (one, _) = committed(quick / "root")
    (host.root / f"{one}/init".lstrip("/")).unlink()
    assert "no other generation" in crash(host)
    (host.root / f"{one}/init".lstrip("/")).write_text("")
    updater = host.updater()
    with updater.store.locked():
        updater.store.put_away(one, "the printer", final=True)
    assert "no other generation" in crash(host)
    assert host.rebooted == []


def test_a_new_one_that_waits_for_its_boot_comes_first(quick: Path) -> None:
    host, _ = committed(quick / "root")
    three = host.system("three", VERSIONS[2])
    host.signed_paths.add(three)
    host.ask("order-3", store_path=three)
    host.updater().run()
    assert "waits for its first boot" in crash(host)
    assert host.boot() == three


def test_a_loader_that_prefers_nothing_cannot_be_told(quick: Path) -> None:
    host, _ = committed(quick / "root")
    (host.root / "boot/loader/loader.conf").write_text("timeout 5\ndefault nixos-*\n")
    assert "prefers no entry" in crash(host)
    assert host.rebooted == []


def test_where_no_configuration_can_be_read_the_boot_entries_tell_what_kind_of_host_it_is(
    quick: Path, world: World
) -> None:
    host, _ = committed(quick / "root")
    assert watch.defaults(Host(host.root)).generations.enable
    assert not watch.defaults(world.device.host).generations.enable


def test_two_generations_of_one_system_are_one(quick: Path) -> None:
    host, (one, two) = committed(quick / "root")
    link = host.profile.with_name("system-9-link")
    link.symlink_to(one)
    host.install_loader(two)
    for entry in host.entries:
        entry.path.rename(entry.path.with_name(entry.identity))
    crash(host)
    assert sorted(entry.blessed for entry in host.entries) == [False, False, True]
    assert host.boot() == one
    settle(host)
    assert all(entry.blessed for entry in host.entries)


@pytest.mark.parametrize("healthy", [("one", "two"), ("two",)], ids=["the one before is good", "it is not"])
def test_a_cut_anywhere_leaves_a_host_that_boots_and_takes_the_next_system(
    quick: Path, healthy: Sequence[str]
) -> None:
    seen = Disturbance()
    while not seen.names or max(seen.at) < len(seen.names):  # the last time the place is one that is not passed
        place = max(seen.at, default=-1) + 1
        host, systems = committed(quick / f"cut-{place}")
        good = [system for system, name in zip(systems, ("one", "two"), strict=True) if name in healthy]
        crash(host, 3)
        seen = Disturbance(at=frozenset({place}))
        with disturbed(seen):
            host.watch(units=lambda _units: CRASHING, uptime=lambda: 3600.0).look()
            host.boot(healthy=good)
            settle(host)
        for _ in range(3):
            assert host.boot(healthy=good) in good, place
            settle(host)
            crash(host, 6)
        assert host.boot(healthy=good) == good[0], f"{place}: it went back in the end, if that one is good"
        settle(host)
        assert not host.locked, place
        install(host, host.system("three", VERSIONS[2]))
    assert place > 12
