"""After commit: a version that turned bad is left once for the other slot, and never twice."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance_update import faults, network, thoughts
from appliance_update.host import Host
from appliance_update.record import State
from appliance_update.thoughts import Stage
from appliance_update.updater import Outcome
from appliance_update.watch import Watch
from tests.appliance_update.conftest import V1, V2, V3, World
from tests.appliance_update.databases import Services
from tests.appliance_update.simulator import boot
from tests.appliance_update.watching import CRASHING

HOUR = 3600.0


class PowerCut(BaseException):
    pass


@pytest.fixture
def committed(world: World) -> World:
    """V2 proved itself an hour ago; V1 lies in the other slot."""
    world.publish(V2)
    world.updater().run()
    assert boot(world.device) == V2
    world.settle()
    world.rebooted.clear()
    return world


def looks(world: World, count: int, **parts: object) -> str:
    """Some looks, a quarter of an hour apart; the last one's sentence."""
    said = ""
    for number in range(count):
        said = world.watch(**({"uptime": lambda number=number: 900.0 * (number + 1)} | parts)).look()
    return said


def crash(world: World, count: int = 4) -> str:
    return looks(world, count, units=lambda _units: CRASHING)


def stage(world: World, version: str = V2) -> Stage | None:
    known = thoughts.load(world.device.state)
    assert known is not None
    return known.versions[version].stage if version in known.versions else None


# -- signs ------------------------------------------------------------------------------------------------------------


def test_a_version_that_is_well_stays(committed: World) -> None:
    assert looks(committed, 10) == f"{V2} is well"
    assert committed.rebooted == []


def test_one_bad_quarter_of_an_hour_is_no_reason(committed: World) -> None:
    crash(committed, 3)
    assert looks(committed, 1) == f"{V2} is well"
    crash(committed, 3)
    assert committed.rebooted == []


def test_a_unit_that_keeps_failing_is_a_reason(committed: World) -> None:
    assert "agent.service kept failing" in crash(committed)
    assert committed.rebooted == [True]
    assert committed.device.ukis() == [f"t640_{V1}+1-0.efi", f"t640_{V2}+0-4.efi"]
    assert ("second_thoughts", V2) in committed.events()


def test_a_unit_that_is_restarted_again_and_again_is_failing_though_it_looks_active(committed: World) -> None:
    restarts = iter(range(0, 1000, 30))

    def units(_units: tuple[str, ...]) -> dict[str, dict[str, str]]:
        return {"agent.service": {"ActiveState": "active", "SubState": "running", "NRestarts": str(next(restarts))}}

    looks(committed, 5, units=units)
    assert committed.rebooted == [True]


def test_a_unit_is_failing_whether_it_waits_for_its_restart_or_starts_again(committed: World) -> None:
    states = itertools.cycle([("activating", "auto-restart", "7"), ("activating", "start", "7")])

    def units(_units: tuple[str, ...]) -> dict[str, dict[str, str]]:
        return {"agent.service": dict(zip(("ActiveState", "SubState", "NRestarts"), next(states), strict=True))}

    looks(committed, 4, units=units)
    assert committed.rebooted == [True]


def test_a_unit_that_starts_for_the_first_time_is_not_failing(committed: World) -> None:
    starting = {"agent.service": {"ActiveState": "activating", "SubState": "start", "NRestarts": "0"}}
    assert looks(committed, 10, units=lambda _units: starting) == f"{V2} is well"


def touched(world: World, ago: float) -> Path:
    path = world.device.root / "var/lib/compliance-agent/last-checkin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    for each in (path, world.device.state / "last-contact"):
        os.utime(each, (time.time() - ago, time.time() - ago))
    return path


def silence(world: World, hours: float, **parts: object) -> str:
    """Look once an hour while nothing is heard."""
    said = ""
    for number in range(int(hours) + 1):
        said = world.watch(**({"uptime": lambda number=number: HOUR * (number + 1)} | parts)).look()
    return said


def test_days_of_silence_on_a_network_that_is_fine_are_a_reason(committed: World) -> None:
    touched(committed, 0)
    silence(committed, 70)
    assert committed.rebooted == []
    assert "no check-in" in silence(committed, 3)
    assert committed.rebooted


def test_silence_is_no_reason_while_the_network_is_to_blame(committed: World) -> None:
    touched(committed, 0)
    assert silence(committed, 100, trouble=lambda: "there is no default route") == f"{V2} is well"
    assert committed.rebooted == []


@pytest.mark.parametrize("sign", ["check-in", "update check"])
def test_one_sign_of_life_is_enough(committed: World, sign: str) -> None:
    """A dead provider is no reason: the rehearsal, which needs nobody, counts as well."""
    path = touched(committed, 0)
    path = path if sign == "check-in" else committed.device.state / "last-contact"
    for number in range(100):
        os.utime(path, (number, number))
        committed.watch(uptime=lambda number=number: HOUR * (number + 1)).look()
    assert committed.rebooted == []


def test_what_never_worked_here_has_not_turned_bad(committed: World) -> None:
    (committed.device.state / "last-contact").unlink()
    silence(committed, 100)
    assert committed.rebooted == []


@pytest.mark.parametrize("years", [1, 10])
def test_what_the_wall_clock_says_is_no_silence(committed: World, years: int) -> None:
    """A time server may be wrong by years, and a device may have been off for a week: only our own hours count."""
    epoch = committed.device.root / "usr/lib/clock-epoch"
    epoch.parent.mkdir(parents=True, exist_ok=True)
    epoch.touch()
    os.utime(epoch, (time.time() - 20 * 365 * 24 * HOUR,) * 2)
    touched(committed, years * 365 * 24 * HOUR)
    silence(committed, 70)
    assert committed.rebooted == []
    silence(committed, 73)
    assert committed.rebooted


# -- what follows -----------------------------------------------------------------------------------------------------


def test_the_other_slot_proves_itself_and_the_bad_version_stays_away_for_good(committed: World) -> None:
    crash(committed)
    assert boot(committed.device) == V1
    updater = committed.settle()
    record = updater.store.record
    assert (record.state, record.good_version) == (State.ROLLED_BACK, V1)
    assert "second thoughts: agent.service kept failing" in record.detail
    assert "for good" in updater.store.put_away_versions()[V2]
    assert stage(committed) is Stage.OTHER_KEPT
    assert boot(committed.device) == V1, "and it stays after the next power cut"
    assert committed.updater().run()[0] is Outcome.UP_TO_DATE


def test_a_fixed_version_is_installed_over_the_bad_one(committed: World) -> None:
    crash(committed)
    boot(committed.device)
    committed.settle()
    committed.publish(V3)
    committed.updater().run()
    assert boot(committed.device) == V3
    assert committed.settle().store.record.good_version == V3


def test_when_the_other_slot_fails_too_the_version_comes_back_and_is_never_left_again(committed: World) -> None:
    crash(committed)
    assert boot(committed.device, healthy={V2}) == V2
    assert committed.device.boots == [V1, V2]
    record = committed.settle().store.record
    assert record.state is State.IDLE
    assert stage(committed) is Stage.CAME_BACK
    assert committed.device.ukis() == [f"t640_{V1}.efi", f"t640_{V2}.efi"], "what was good can be fallen back to"
    committed.rebooted.clear()
    assert "it stays" in crash(committed, 20)
    assert committed.rebooted == []


def test_when_the_agent_fails_in_both_slots_an_update_is_still_applied(committed: World) -> None:
    """Neither proves itself: the loader boots the newer one as the last resort, and the fix is installed from there."""
    crash(committed)
    assert boot(committed.device, healthy=set(), limit=2) is None
    assert committed.device.boots == [V1, V2]
    committed.settle()  # the gate does not reboot any more: see `out_of_tries`
    committed.publish(V3)
    committed.updater().run()
    assert boot(committed.device, healthy={V3}) == V3
    assert committed.settle().store.record.state is State.COMMITTED


def test_without_another_version_nothing_is_done(world: World) -> None:
    assert "there is no other version to boot" in crash(world, 6)
    assert world.rebooted == []
    assert stage(world, V1) is None


def test_a_version_that_failed_here_is_nothing_to_go_back_to(committed: World) -> None:
    updater = committed.updater()
    with updater.store.locked():
        updater.store.put_away(V1, "the printer", final=True)
    assert f"{V1} failed here too" in crash(committed)
    assert committed.rebooted == []


def test_an_entry_that_does_not_fit_its_slot_is_nothing_to_go_back_to(committed: World) -> None:
    entry = committed.device.uki_directory / f"t640_{V1}.efi"
    entry.write_bytes((committed.device.uki_directory / f"t640_{V2}.efi").read_bytes())
    assert "does not fit its slot" in crash(committed)


def test_an_update_that_is_armed_comes_first(committed: World) -> None:
    committed.publish(V3)
    committed.updater().run()
    assert "no other version" in crash(committed) or "has not proved itself" in crash(committed)
    assert boot(committed.device) == V3


def test_the_window_is_respected_for_a_day_and_then_not(committed: World) -> None:
    from appliance_update.config import Window

    now = time.gmtime()
    closed = Window(f"{(now.tm_hour + 3) % 24:02}:00", f"{(now.tm_hour + 4) % 24:02}:00")

    def look(hours: float) -> None:
        watch = committed.watch(units=lambda _units: CRASHING, uptime=lambda: hours * HOUR)
        watch.config = committed.updater(window=closed).config
        watch.look()

    for quarter in range(90):
        look(1 + quarter / 4)
    assert committed.rebooted == []
    look(27)
    assert committed.rebooted == [False], "nobody may inhibit it any more"


def test_a_hanging_updater_holds_it_up_only_for_a_while(committed: World) -> None:
    with committed.updater().store.locked():
        crash(committed, 5)
        assert committed.rebooted == []
        crash(committed, 5)
    assert committed.rebooted


def test_a_reboot_that_is_inhibited_is_tried_again_in_this_boot_only(committed: World) -> None:
    def inhibited(_respect: bool) -> None:
        raise OSError("somebody prints")

    looks(committed, 4, units=lambda _units: CRASHING)
    committed.rebooted.clear()
    watch = committed.watch()
    watch.reboot = inhibited
    assert "did not happen yet" in watch.look()
    looks(committed, 1)
    assert committed.rebooted == [True]
    committed.rebooted.clear()
    boot(committed.device, healthy={V2})  # V1 is tried and fails
    looks(committed, 3, units=lambda _units: CRASHING)
    assert committed.rebooted == []


def test_second_thoughts_that_cannot_be_read_are_not_had_again(committed: World) -> None:
    (committed.device.state / thoughts.FILE).write_text("{")
    assert "no more are had" in crash(committed, 8)
    assert committed.rebooted == []


def test_the_databases_of_the_older_version_come_back_with_it(committed: World) -> None:
    """And those of the newer one, should the older one fail."""
    services = Services(committed.device, knows={V2: 2})
    services.start()
    assert services.schema() == 2
    updater = committed.updater()
    with updater.store.locked():  # what arming V2 had left, had there been databases then
        older = Services(committed.device, knows={V2: 1})
        for name in ("agent.db", "agent.db-wal", "agent.db-shm"):
            (committed.device.root / "var/lib/compliance-agent" / name).unlink(missing_ok=True)
        older.start()
        updater.snapshots.take(V1)
    services.start()
    crash(committed)
    assert boot(committed.device, healthy=set(), limit=1) is None
    committed.restore()
    assert services.schema() == 1
    boot(committed.device, healthy={V2})
    committed.restore()
    assert services.schema() == 2


def test_a_power_cut_at_any_place_ends_in_one_of_the_two(world: World) -> None:
    """Whatever was reached: some slot boots, nothing loops, and the next update goes in."""
    from tests.appliance_update.conftest import fresh_device

    world.publish(V2)
    places = 1
    number = 0
    while number < places:
        device = fresh_device(world, world.directory / f"at-{number}")
        device.updater().run()
        boot(device.device)
        device.settle()
        crash(device, 3)
        seen: list[str] = []

        def cut(name: str, number: int = number, seen: list[str] = seen) -> None:
            seen.append(name)
            if len(seen) == number + 1:
                raise PowerCut

        faults.set_hook(cut)
        with contextlib.suppress(PowerCut):
            device.watch(units=lambda _units: CRASHING, uptime=lambda: 4000.0).look()
        faults.set_hook(None)
        if number == 0:
            places = 40
        if len(seen) <= number:
            break
        assert boot(device.device) in (V1, V2)
        device.settle()
        for _ in range(3):
            crash(device, 6)
            assert boot(device.device) in (V1, V2)
            device.settle()
        assert device.events().count(("second_thoughts", V2)) == 1
        assert device.device.host.image_version == V1, "it went back in the end, and stayed"
        number += 1
    assert number > 12


def test_the_program_runs_without_the_updaters_heavy_parts() -> None:
    """What the new version may have broken must not keep it from being left."""
    import subprocess
    import sys

    script = (
        "import sys\nfor name in ('tuf','requests','rich','click','securesystemslib'): sys.modules[name] = None\n"
        "import appliance_update.watch, appliance_update.restore\n"
        "assert 'appliance_update.updater' not in sys.modules and 'appliance_update.transfer' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# -- the network ------------------------------------------------------------------------------------------------------


def routes(tmp_path: Path, gateway: str) -> Host:
    (tmp_path / "proc/net").mkdir(parents=True)
    number = int.from_bytes(socket.inet_aton(gateway), "little")
    (tmp_path / "proc/net/route").write_text(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n"
        f"eth0\t00000000\t{number:08X}\t0003\t0\t0\t100\t00000000\n"
    )
    return Host(tmp_path)


@contextlib.contextmanager
def serving() -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_without_a_default_route_the_network_is_to_blame(tmp_path: Path) -> None:
    assert network.trouble(Host(tmp_path), "http://localhost/") == "there is no default route"


def test_a_repository_that_answers_makes_the_network_fine(tmp_path: Path) -> None:
    with serving() as port:
        assert network.trouble(routes(tmp_path, "127.0.0.9"), f"http://localhost:{port}/") == ""


def test_a_gateway_that_refuses_has_answered(tmp_path: Path) -> None:
    assert network.trouble(routes(tmp_path, "127.0.0.9"), "http://127.0.0.1:1/") == ""


def test_a_name_that_does_not_resolve_is_the_networks_fault(tmp_path: Path) -> None:
    said = network.trouble(routes(tmp_path, "127.0.0.9"), "http://updates.invalid/")
    assert said == "the name updates.invalid does not resolve"


def test_the_gateway_is_read_as_the_kernel_writes_it(tmp_path: Path) -> None:
    assert network.default_gateway(routes(tmp_path, "10.77.0.1")) == "10.77.0.1"


def test_a_watch_is_assembled_from_the_configuration(world: World) -> None:
    from appliance_update.watch import assemble

    watch = assemble(world.config, world.device.host, world.device.layout)
    assert isinstance(watch, Watch)
