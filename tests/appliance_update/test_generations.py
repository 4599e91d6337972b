"""Generation hosts: good, bad and hanging systems, who may say what is installed, and cuts everywhere in between."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from appliance_update import quarantine
from appliance_update.nix_store import generations, present
from appliance_update.record import State
from appliance_update.updater import RESTARTS, Outcome, UpdateError
from appliance_update.window import Window
from tests.appliance_update.appliance import Disturbance, disturbed
from tests.appliance_update.nixos_host import FLAKE, NixosHost

OLD, NEW = "2026.11.1", "2026.11.2"


@pytest.fixture
def host(quick: Path) -> NixosHost:
    """A host on which a system was deployed by hand, and is good."""
    made = NixosHost(quick / "root")
    made.deploy(made.system("one", OLD))
    return made


def signed(host: NixosHost, name: str = "two", version: str = NEW, **facts: str) -> str:
    path = host.system(name, version, **facts)
    host.signed_paths.add(path)
    return path


def armed(host: NixosHost, path: str) -> None:
    host.ask("order-1", store_path=path)
    outcome, sentence = host.updater().run()
    assert outcome is Outcome.REBOOTING, sentence


def settled(host: NixosHost) -> State:
    updater = host.updater()
    with updater.store.locked():
        updater.settle()
    return updater.store.record.state


# -- good, bad, hanging -----------------------------------------------------------------------------------------------


def test_a_good_generation_is_kept_and_answers_its_order(host: NixosHost) -> None:
    path = signed(host)
    armed(host, path)
    assert host.boot() == path
    assert settled(host) is State.COMMITTED
    assert ("committed", "order-1") in host.events()
    status = json.loads((host.root / "run/appliance-update/status.json").read_text())
    assert (status["state"], status["running_version"]) == ("committed", NEW)


def test_a_generation_that_never_proves_itself_is_left_after_its_tries_and_put_away(host: NixosHost) -> None:
    old, path = host.running, signed(host)
    armed(host, path)
    assert host.boot(healthy=[old]) == old
    assert settled(host) is State.ROLLED_BACK
    assert ("rolled_back", "order-1") in host.events()
    assert path in quarantine.load(host.updater().store.quarantine_path).versions


def test_what_failed_is_not_the_next_to_boot_by_the_profile_either_and_leaves_the_esp(host: NixosHost) -> None:
    old, path = host.running, signed(host)
    armed(host, path)
    host.boot(healthy=[old])
    settled(host)
    assert present(host.profile) == old
    assert {entry.system for entry in host.entries} == {old}
    assert host.boot(healthy=[]) == old


def test_what_failed_is_not_tried_again_when_it_is_ordered_again(host: NixosHost) -> None:
    old, path = host.running, signed(host)
    armed(host, path)
    host.boot(healthy=[old])
    host.ask("order-2", store_path=path)
    outcome, sentence = host.updater().run()
    assert outcome is Outcome.UP_TO_DATE
    assert "put away" in sentence
    assert ("quarantined", "order-2") in host.events()


def test_while_it_is_on_trial_the_updater_touches_nothing(host: NixosHost) -> None:
    path = signed(host)
    armed(host, path)
    host.boot(healthy=[], limit=1)
    before = [entry.path.name for entry in host.entries]
    host.ask("order-2", store_path=signed(host, "three", "2026.11.3"))
    outcome, _ = host.updater().run()
    assert outcome is Outcome.WAITING
    assert [entry.path.name for entry in host.entries] == before
    assert host.locked


def test_the_lock_lasts_from_arming_to_the_end_of_the_trial(host: NixosHost) -> None:
    old, path = host.running, signed(host)
    assert not host.locked
    armed(host, path)
    assert host.locked
    host.boot(healthy=[old])
    settled(host)
    assert not host.locked


def test_a_good_system_may_migrate_and_is_pinned_against_garbage_collection(host: NixosHost) -> None:
    path = signed(host)
    armed(host, path)
    host.boot()
    settled(host)
    assert not (host.root / "run/appliance-update/trial").exists()
    assert str((host.root / "nix/var/nix/gcroots/appliance-update/good").readlink()) == path


def test_when_nothing_boots_better_the_bad_one_stays_up_and_the_next_order_is_carried_out(host: NixosHost) -> None:
    old, path = host.running, signed(host)
    armed(host, path)
    for entry in host.entries:
        if entry.system == old:
            entry.path.rename(entry.path.with_name(entry.identity.replace(".conf", "+0-4.conf")))
    host.boot(healthy=[], limit=5)
    if host.running == path:
        settled(host)
    third = signed(host, "three", "2026.11.3")
    host.ask("order-2", store_path=third)
    host.updater().run()
    assert host.boot() == third


# -- where it may come from -------------------------------------------------------------------------------------------


def test_a_flake_of_the_list_is_built_and_installed(host: NixosHost) -> None:
    host.built[FLAKE] = host.system("two", NEW)
    host.ask("order-1", flake=FLAKE)
    host.updater().run()
    assert host.boot() == host.built[FLAKE]


def test_the_flake_that_is_followed_needs_no_agent_at_all(host: NixosHost) -> None:
    host.built[FLAKE] = host.system("two", NEW)
    host.updater(host.config(follow=FLAKE)).run()
    assert host.boot() == host.built[FLAKE]
    assert settled(host) is State.COMMITTED
    outcome, _ = host.updater(host.config(follow=FLAKE)).run()
    assert outcome is Outcome.UP_TO_DATE


HOSTILE = {
    "no path of the store": {"store_path": "/etc/passwd"},
    "an option": {"store_path": "--option"},
    "a path below a path": {"store_path": "/nix/store/" + "a" * 32 + "-x/../../../etc"},
    "two lines": {"store_path": "/nix/store/" + "a" * 32 + "-x\n--impure"},
    "a letter no hash has": {"store_path": "/nix/store/" + "e" * 32 + "-x"},
    "another flake": {"flake": "github:attacker/fleet#t640-rebuild"},
    "a revision the list does not name": {"flake": "github:example/fleet/" + "0" * 40 + "#t640-rebuild"},
    "another host of it": {"flake": "github:example/fleet#installer"},
    "an attribute path": {"flake": "github:example/fleet#a\".x"},
    "a path of this machine": {"flake": "path:/tmp/evil#t640-rebuild"},
    "a directory": {"flake": "/tmp/evil"},
    "an option in the place of a flake": {"flake": "--impure"},
    "both": {"flake": FLAKE, "store_path": "/nix/store/" + "a" * 32 + "-x"},
}


@pytest.mark.parametrize("request_", HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_allowed_is_refused_before_nix_is_asked(host: NixosHost, request_: dict[str, str]) -> None:
    old = host.running
    host.built = dict.fromkeys(request_.values(), host.system("two", NEW))
    host.ask("order-1", **request_)
    host.updater().run()
    assert host.events() == [("refused", "order-1")]
    assert host.boot() == old


def test_a_list_that_names_a_path_of_this_machine_allows_it_not(host: NixosHost) -> None:
    flake = "path:/srv/fleet#t640-rebuild"
    host.built[flake] = host.system("two", NEW)
    host.ask("order-1", flake=flake)
    host.updater(host.config(flakes=(flake,))).run()
    assert host.events() == [("refused", "order-1")]


UNFIT = {
    "signed by nobody": ({}, False),
    "of another kind of device": ({"image_id": "kiosk"}, True),
    "lower than what runs": ({"version": "2026.10.9"}, True),
    "without a gate": ({"without": "etc/systemd/system/boot-health.service"}, True),
    "without an updater": ({"without": "etc/appliance-update/config.toml"}, True),
    "not bootable": ({"without": "boot.json"}, True),
}


@pytest.mark.parametrize(("facts", "is_signed"), UNFIT.values(), ids=UNFIT)
def test_a_system_that_is_not_for_this_host_is_answered_and_not_installed(
    host: NixosHost, facts: dict[str, str], is_signed: bool
) -> None:
    old = host.running
    path = host.system("two", **{"version": NEW, **facts})  # type: ignore[arg-type]
    host.signed_paths |= {path} if is_signed else set()
    host.ask("order-1", store_path=path)
    with pytest.raises(UpdateError):
        host.updater().run()
    assert host.events() == [("refused", "order-1")]
    assert present(host.profile) == old


def test_no_store_path_is_taken_where_no_key_is_trusted(host: NixosHost) -> None:
    host.ask("order-1", store_path=signed(host))
    host.updater(host.config(trusted_keys=())).run()
    assert host.events() == [("refused", "order-1")]


def test_an_order_that_cannot_be_fetched_holds_up_no_other(host: NixosHost) -> None:
    away = signed(host, "away")
    host.cached.discard(away)
    host.ask("order-1", store_path=away)
    with pytest.raises(UpdateError, match="don't know how to build"):
        host.updater().run()
    assert ("check_failed", "order-1") in host.events()
    path = signed(host)
    host.ask("order-2", store_path=path)
    host.updater().run()
    assert host.boot() == path


def test_one_that_runs_already_is_answered_at_once(host: NixosHost) -> None:
    host.signed_paths.add(host.running)
    host.ask("order-1", store_path=host.running)
    assert host.updater().run()[0] is Outcome.UP_TO_DATE
    assert host.events() == [("committed", "order-1")]


def test_a_request_without_a_wish_asks_for_the_flake_that_is_followed(host: NixosHost) -> None:
    host.built[FLAKE] = host.system("two", NEW)
    host.ask("order-1")
    host.updater(host.config(follow=FLAKE)).run()
    assert host.boot() == host.built[FLAKE]
    settled(host)
    assert ("committed", "order-1") in host.events()


# -- what goes wrong on the way ---------------------------------------------------------------------------------------


def test_a_system_without_boot_counting_is_taken_back_before_it_boots(host: NixosHost) -> None:
    old, path = host.running, signed(host)
    host.ask("order-1", store_path=path)
    host.counting = False
    with pytest.raises(UpdateError, match="bootCounting"):
        host.updater().run()
    assert present(host.profile) == old
    assert host.boot() == old
    assert not host.locked


def test_a_boot_loader_that_cannot_be_written_leaves_what_runs_the_next_to_boot(host: NixosHost) -> None:
    old, path = host.running, signed(host)
    host.loader_fails = "No space left on device"
    host.ask("order-1", store_path=path)
    with pytest.raises(UpdateError, match="No space left"):
        host.updater().run()
    host.loader_fails = ""
    assert host.boot() == old
    assert present(host.profile) == old


def test_a_damaged_store_is_never_booted(host: NixosHost) -> None:
    path = signed(host)
    host.damaged.add(path)
    host.ask("order-1", store_path=path)
    with pytest.raises(UpdateError, match="modified"):
        host.updater().run()
    assert path not in {entry.system for entry in host.entries}


def test_too_little_room_on_the_esp_is_said_before_anything_is_fetched(host: NixosHost) -> None:
    host.ask("order-1", store_path=signed(host))
    with pytest.raises(UpdateError, match="/boot has"):
        host.updater(host.config(esp_free_mib=1 << 40)).run()


def test_it_waits_for_the_window_and_needs_no_uplink_then(host: NixosHost) -> None:
    host.built[FLAKE] = path = host.system("two", NEW)
    closed = replace(host.config(follow=FLAKE), window=Window(start="02:00", end="03:00"))
    host.now -= host.now % 86400 - 12 * 3600
    assert host.updater(closed).run()[0] is Outcome.WAITING
    host.built.clear()
    host.now += 14.5 * 3600
    assert host.updater(closed).run()[0] is Outcome.REBOOTING
    assert host.boot() == path


def test_few_generations_stay_so_that_the_esp_never_fills_up(host: NixosHost) -> None:
    for number in range(2, 9):
        path = signed(host, f"system-{number}", f"2026.11.{number}")
        host.ask(f"order-{number}", store_path=path)
        host.updater().run()
        assert host.boot() == path
    settled(host)
    assert len(generations(host.profile)) <= 5
    assert len(host.entries) <= 5


def test_a_system_marked_bad_while_it_waits_is_disarmed(host: NixosHost) -> None:
    old, path = host.running, signed(host)
    armed(host, path)
    updater = host.updater()
    with updater.store.locked():
        updater.mark_bad(path, "recalled")
    assert host.boot() == old
    assert not host.locked


def test_a_system_that_the_loader_never_boots_is_given_up_and_the_next_one_comes(host: NixosHost) -> None:
    path = signed(host)
    host.ask("order-1", store_path=path)
    for number in range(RESTARTS):
        assert host.updater().run()[0] is Outcome.REBOOTING
        (host.root / "proc/sys/kernel/random/boot_id").write_text(f"{number + 100:032x}\n")  # the old one once more
    later = signed(host, "three", "2026.11.3")
    host.ask("order-2", store_path=later)
    given_up = host.updater().run()
    assert given_up[0] is Outcome.UP_TO_DATE  # one order at a time: this run answers the first one
    assert f"{RESTARTS} reboots did not boot it" in given_up[1]
    assert host.updater().run()[0] is Outcome.REBOOTING
    assert path in quarantine.load(host.updater().store.quarantine_path).versions
    assert ("quarantined", "order-1") in host.events()
    assert host.boot() == later


# -- cuts -------------------------------------------------------------------------------------------------------------


def places(host: NixosHost) -> int:
    """How many places an update passes."""
    seen = Disturbance()
    with disturbed(seen):
        armed(host, signed(host))
    return len(seen.names)


@pytest.mark.exhaustive
@pytest.mark.parametrize("healthy", [True, False], ids=["good", "bad"])
def test_a_cut_anywhere_leaves_a_host_that_boots_and_takes_the_next_system(quick: Path, healthy: bool) -> None:
    first = NixosHost(quick / "count")
    first.deploy(first.system("one", OLD))
    for place in range(places(first)):
        host = NixosHost(quick / f"cut-{place}")
        old = host.system("one", OLD)
        host.deploy(old)
        path = signed(host)
        host.ask("order-1", store_path=path)
        with disturbed(Disturbance(at=frozenset({place}))):
            host.updater().run()
        good = [old, path] if healthy else [old]
        for _ in range(4):
            assert host.boot(healthy=good) in good, place
            with contextlib.suppress(UpdateError):
                host.updater().run()
        third = signed(host, "three", "2026.11.3")
        host.ask("order-3", store_path=third)
        for _ in range(4):
            with contextlib.suppress(UpdateError):
                host.updater().run()
            host.boot(healthy=[*good, third])
        assert host.running == third, place
        assert settled(host).settled
        assert not host.locked, place


