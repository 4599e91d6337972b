"""The pilot's failure, replayed on the virtual T640: no release can strand a device.

The images are the good one with one fault put into our packages (vm-tests/t640/variants.py). Each is installed as an
update on a device that runs a good version, must be refused there, and must leave a device that takes the next release.
The pilot's own fault is also put onto a device as what it runs: the way out is the updater's own poll.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest

from t640 import disk, releases, variants
from t640.image import Recipe, build
from t640.machine import Machine
from t640.session import open_session
from t640.world import World
from tests.faults.machinery import PATIENCE, READY, Machinery, machinery
from tests.faults.marks import fault
from tests.faults.outcome import Report
from tests.integration.conftest import VERSION, versions

pytestmark = [pytest.mark.vm, pytest.mark.thorough]

LIFETIME = 480
"""Seconds after boot at which the agent of `late-death` dies: its hour, shortened, and longer than a slow gate."""


# -- as an update -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ready() -> Iterator[Machinery]:
    """A good version: booted, blessed, settled, and kept as a snapshot."""
    with machinery() as bench:
        print(f"gate to blessing: {seconds_to_blessing(bench.machine):.0f} s after multi-user.target")
        bench.machine.snapshot(READY)
        yield bench


@pytest.fixture
def bench(ready: Machinery, report: Report) -> Machinery:
    ready.report = report
    ready.rewind()
    return ready


def seconds_to_blessing(machine: Machine) -> float:
    """From multi-user.target to the end of systemd-bless-boot, by the machine's own clock."""
    begun = machine.get_unit_property("multi-user.target", "ActiveEnterTimestampMonotonic")
    ended = machine.get_unit_property("systemd-bless-boot.service", "ExecMainExitTimestampMonotonic")
    return (int(ended) - int(begun)) / 1e6


def reasons(bench: Machinery, event: str) -> list[str]:
    """Why, by the updater's history."""
    lines = bench.machine.succeed("cat /var/lib/appliance-update/history.jsonl").splitlines()
    entries = [json.loads(line) for line in lines if line.strip()]
    return [str(entry["reason"]) for entry in entries if entry["event"] == event]


def test_a_sound_system_rehearses_and_the_daily_one_notes_contact(bench: Machinery) -> None:
    machine = bench.machine
    machine.succeed("rm -f /var/lib/appliance-update/last-contact")
    report = json.loads(machine.succeed("appliance-update rehearse --json"))
    assert report["passed"], report
    print(json.dumps(report["stages"], indent=1))
    machine.succeed("test -e /var/lib/appliance-update/last-contact")
    machine.succeed("systemctl start appliance-update-rehearse.service")
    machine.succeed("systemctl is-active appliance-update-rehearse.timer")
    assert machine.succeed("ls /run/appliance-update/requests").strip() == ""
    machine.fail("test -e /var/lib/appliance-update/rehearsal")


def test_once_it_is_good_an_updater_that_stops_working_calls_the_lifeline(bench: Machinery) -> None:
    """Python is taken away from under a blessed system; the daily rehearsal notices, in shell."""
    bench.machine.succeed("touch /run/nothing && mount --bind /run/nothing $(readlink -f /usr/bin/python3)",
                          "systemctl start appliance-update-rehearse.service || true")  # fmt: skip
    bench.machine.wait_until_succeeds("test -s /var/lib/appliance-update/updater-broken", PATIENCE)


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        pytest.param("pilot-agent", "mcp_api_key_file", marks=fault(53)),
        pytest.param("missing-key", "update_channel", marks=fault(56)),
        pytest.param("blind-updater", "unknown fields", marks=fault(54)),
        pytest.param("no-python", "", marks=fault(54)),
    ],
)
def test_built_as_an_update_it_is_refused_and_rolled_back(bench: Machinery, variant: str, said: str) -> None:
    one, two, _ = bench.versions
    bench.offer(two, variant)
    bench.update()
    bench.boots(two, two, two, one)
    bench.proved(one)
    bench.machine.wait_until_succeeds("grep -q rolled_back /run/appliance-update/status.json", PATIENCE)
    (reason,) = reasons(bench, "rolled_back")
    print(f"{variant}: {reason}")
    assert said in reason
    journal = bench.machine.succeed("cat /var/lib/appliance-update/failed/*.log")
    assert "boot-health" in journal
    bench.machine.fail("test -e /var/lib/appliance-update/updater-broken")
    bench.holds(f"{variant} refused, {one} back")


@fault(52, 55)
def test_a_release_whose_agent_dies_an_hour_later_is_left_for_the_version_before(bench: Machinery) -> None:
    """The hour is shortened by a file in the image, and the patience of watch.py by the configuration."""
    one, two, _ = bench.versions
    if bench.machine.execute("systemctl cat appliance-update-watch.timer")[0] != 0:
        pytest.skip("this image watches nothing after the commit")
    chosen = releases.recipe(two, "late-death")
    timer = "[Timer]\nOnBootSec=\nOnUnitActiveSec=\nOnUnitInactiveSec=\nOnBootSec=2min\nOnUnitInactiveSec=30s\n"
    files = {
        **chosen.files,
        variants.LATE_DEATH_FILE: f"{LIFETIME}\n",
        "usr/lib/systemd/system/appliance-update-watch.timer.d/10-rig.conf": timer,
    }
    bench.updates.put(build(dataclasses.replace(chosen, files=files)))
    bench.update()
    bench.boots(two)
    bench.proved(two)
    bench.boots(one)
    bench.proved(one)
    assert reasons(bench, "second_thoughts")
    bench.holds("the agent's death was noticed after the commit; the other slot booted once, on trial")


# -- as what runs -----------------------------------------------------------------------------------------------------


def pilots_device() -> Recipe:
    """The pilot's image: its agent dies of the order, its gate rehearsed nothing, its updater polls by itself.

    The poll comes every minute instead of every half hour.
    """
    chosen = releases.recipe(VERSION, "pilot-agent")
    lines = chosen.files[releases.CONFIG_FILE].splitlines(True)
    config = "".join(line for line in lines if not line.startswith("rehearsal_units"))
    timer = "[Timer]\nOnBootSec=\nOnUnitInactiveSec=\nOnBootSec=60s\nOnUnitInactiveSec=60s\nRandomizedDelaySec=0\n"
    files = {
        **chosen.files,
        releases.CONFIG_FILE: config,
        "usr/lib/systemd/system/appliance-update.timer.d/10-rig.conf": timer,
    }
    return dataclasses.replace(chosen, files=files)


def dies_again(machine: Machine) -> None:
    """Wait until the agent has died of its order at least twice."""
    check = 'test "$(systemctl show -P NRestarts compliance-agent.service)" -ge 2'
    machine.wait_until_succeeds(check, PATIENCE)
    machine.succeed("journalctl -b -u compliance-agent.service | grep -q mcp_api_key_file")


@fault(53)
def test_a_device_that_runs_the_pilots_agent_reaches_the_fix_by_itself() -> None:
    with open_session() as session:
        world = World(session, hosts=(), checkin_interval=20)
        machine = world.appliance(disk.assemble(build(pilots_device())))
        try:
            reaches_the_fix(world, machine)
        finally:
            machine.crash()


def reaches_the_fix(world: World, machine: Machine) -> None:
    one, two, _ = versions()
    machine.start()
    assert machine.wait_for_boot().version == one
    machine.wait_until_succeeds(f"ls /boot/EFI/Linux/ | grep -qx t640_{one}.efi", PATIENCE)
    world.wait_for_device()
    order = world.central.order("update", "--version", two)
    dies_again(machine)
    world.updates.publish(two)  # the fix; nobody touches the device
    assert machine.wait_for_boot(PATIENCE).version == two
    machine.wait_until_succeeds(f"ls /boot/EFI/Linux/ | grep -qx t640_{two}.efi", PATIENCE)
    machine.wait_for_unit("compliance-agent.service", PATIENCE)
    ended = _ended(world, order)
    print(f"the order that killed the agent ended as {ended['state']}: {ended['reason']}")
    assert world.central.device()["version"] == two


def _ended(world: World, order: str) -> dict[str, str]:
    from tests.integration.test_appliance import until

    return dict(until(lambda: _finished(world, order), f"the end of order {order}", PATIENCE))


def _finished(world: World, order: str) -> dict[str, str]:
    state = world.central.order_state(order)
    return state if state["finished_at"] else {}
