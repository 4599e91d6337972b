"""The updater on the virtual T640 when nothing else of the appliance is left, and what happens to the databases.

The packages of the other distributions are taken away from the running system; it must update itself all the same. Then
a fault is struck on the real machine at a tagged place (`faults.point`): the power fails between the kernel image and
its counter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.faults.machinery import PATIENCE, SERVICES, Machinery, machinery
from tests.faults.marks import fault

pytestmark = [pytest.mark.vm, pytest.mark.thorough, pytest.mark.story]

OTHERS = ("compliance_agent", "network_scanner", "local_portal", "appliance_protocol")
SNAPSHOTS = "/var/lib/appliance-update/snapshots"
DATABASES = ("compliance-agent--agent.db", "network-scanner--devices.db", "local-portal--portal.db")


@pytest.fixture(scope="module")
def bench() -> Iterator[Machinery]:
    with machinery() as made:
        yield made


def test_after_the_commit_the_mark_of_the_trial_is_gone_and_the_watch_looks(bench: Machinery) -> None:
    machine = bench.machine
    machine.wait_until_fails("test -e /run/appliance-update/trial", PATIENCE)
    assert machine.get_unit_property("appliance-update-trial.service", "Result") == "success"
    machine.succeed("systemctl is-active appliance-update-watch.timer")
    machine.succeed("systemctl start appliance-update-watch.service")
    assert "is well" in machine.unit_log("appliance-update-watch.service")


def test_with_every_other_package_gone_the_system_updates_itself(bench: Machinery) -> None:
    one, two, _ = bench.versions
    machine = bench.machine
    machine.succeed(f"systemctl stop {' '.join(SERVICES)} local-portal.socket local-portal-http.socket")
    for name in OTHERS:
        machine.succeed(f"mount -t tmpfs -o ro none /usr/lib/python3/dist-packages/{name}")
        machine.fail(f"cd / && python3 -c 'import {name}.wire, {name}.config'")
    bench.offer(two)
    bench.update()
    bench.boots(two)
    # While it is on trial: the mark is there, and so are the databases as the version before left them.
    machine.succeed(f"test -e /run/appliance-update/trial || ls /boot/EFI/Linux | grep -qx t640_{two}.efi")
    for name in DATABASES:
        machine.succeed(f"test -s {SNAPSHOTS}/{one}/var--lib--{name}")
    machine.fail(f"ls {SNAPSHOTS}/{one} | grep evidence")
    bench.proved(two)
    machine.wait_until_fails("test -e /run/appliance-update/trial", PATIENCE)


@fault(7)
def test_the_power_fails_between_the_kernel_image_and_its_counter(bench: Machinery) -> None:
    _, two, three = bench.versions
    machine = bench.machine
    machine.succeed("systemctl stop appliance-update.timer",
                    "echo 'uki:read*:reboot' > /run/appliance-update/faults-allowed")  # fmt: skip
    bench.offer(three)
    bench.update()
    bench.boots(two)
    machine.succeed("ls /boot/EFI/Linux | grep -q landing")
    bench.update()
    bench.boots(three)
    bench.proved(three)
    machine.wait_until_fails("test -e /run/appliance-update/trial", PATIENCE)  # the commit follows the blessing
    events = [json.loads(line) for line in machine.succeed("cat /var/lib/appliance-update/history.jsonl").splitlines()]
    assert [event["event"] for event in events if event["version"] == three].count("committed") == 1
    machine.fail("ls /boot/EFI/Linux | grep -q landing")
