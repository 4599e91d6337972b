"""Mark, snapshots and restore under the image's own systemd, sandboxes and users: the image as a container."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pytest

from t640.container import Container
from tests.faults.marks import fault
from tests.integration.conftest import VERSION
from tests.integration.test_gate_in_container import PATIENCE, container

pytestmark = pytest.mark.vm

DATABASES = {
    "compliance-agent": "/var/lib/compliance-agent/agent.db",
    "network-scanner": "/var/lib/network-scanner/devices.db",
    "local-portal": "/var/lib/local-portal/portal.db",
}
EVIDENCE = "/var/lib/compliance-agent/evidence.db"
SERVICES = "compliance-agent network-scanner local-portal.socket local-portal-http.socket local-portal"
SNAPSHOTS = "/var/lib/appliance-update/snapshots"


@pytest.fixture
def trial() -> Iterator[Container]:
    with container(VERSION) as machine:
        machine.wait_until_succeeds("systemctl is-active multi-user.target", PATIENCE)
        yield machine


def python(machine: Container, program: str) -> str:
    return machine.succeed(shlex.join(["python3", "-c", program])).strip()


def schema(machine: Container, path: str) -> int:
    query = f"sqlite3.connect({path!r}).execute('PRAGMA user_version').fetchone()"
    return int(python(machine, f"import sqlite3; print(*{query})"))


def take(machine: Container) -> None:
    """What the updater does before it arms another version."""
    python(machine, "from appliance_update.config import load\n"
                    "from appliance_update.host import Host\n"
                    "from appliance_update.restore import assembled\n"
                    f"assembled(load()[0], Host())[1].take({VERSION!r})")  # fmt: skip


def test_a_counted_boot_bears_the_mark_before_any_service_starts(trial: Container) -> None:
    trial.succeed("test -e /run/appliance-update/trial")
    assert trial.succeed("systemctl show -P Result appliance-update-trial.service").strip() == "success"
    for unit in DATABASES:
        order = trial.succeed(f"systemctl show -P After {unit}.service").split()
        assert {"appliance-update-trial.service", "appliance-update-restore.service"} <= set(order)


def test_an_uncounted_boot_bears_none() -> None:
    with container(VERSION, counter="") as machine:
        machine.wait_until_succeeds("systemctl is-active multi-user.target", PATIENCE)
        machine.succeed("test ! -e /run/appliance-update/trial")


def test_a_snapshot_of_running_services_holds_their_databases_and_disturbs_none(trial: Container) -> None:
    before = trial.succeed("stat -c '%n %U' /var/lib/*/*.db")
    take(trial)
    for path in DATABASES.values():
        name = path.strip("/").replace("/", "--")
        assert schema(trial, f"{SNAPSHOTS}/{VERSION}/{name}") == schema(trial, path)
    assert "evidence" not in trial.succeed(f"ls {SNAPSHOTS}/{VERSION}")
    assert trial.succeed("stat -c '%n %U' /var/lib/*/*.db") == before
    owners = trial.succeed("stat -c %U /var/lib/compliance-agent/agent.db-* | sort -u").split()
    assert owners == ["compliance-agent"], "SQLite's files beside it stay the service's"
    for unit in DATABASES:
        trial.succeed(f"systemctl is-active {unit}.service")


@fault(61)
def test_databases_that_another_version_changed_come_back_in_the_sandbox_and_the_services_take_them(
    trial: Container,
) -> None:
    take(trial)
    kept = {path: schema(trial, path) for path in DATABASES.values()}
    trial.succeed(f"systemctl stop {SERVICES} appliance-update-restore.service")
    for path in (*DATABASES.values(), EVIDENCE):
        python(trial, f"import sqlite3; sqlite3.connect({path!r}).execute('PRAGMA user_version=99')")
    trial.succeed("systemctl start appliance-update-restore.service")
    assert {path: schema(trial, path) for path in DATABASES.values()} == kept, trial.succeed(
        "journalctl -u appliance-update-restore.service --no-pager"
    )
    assert schema(trial, EVIDENCE) == 99, "evidence is left alone"
    for unit, path in DATABASES.items():
        assert trial.succeed(f"stat -c %U {path}").strip() == unit
        trial.succeed(f"ls {path}.from-*")
    trial.succeed(f"systemctl start {SERVICES}")
    for unit in DATABASES:
        trial.succeed(f"systemctl is-active {unit}.service")
    assert "restored" in trial.succeed("cat /var/lib/appliance-update/history.jsonl")


def test_the_watch_looks_in_its_sandbox(trial: Container) -> None:
    trial.succeed("systemctl is-active appliance-update-watch.timer")
    trial.succeed("systemctl start appliance-update-watch.service")
    assert "Traceback" not in trial.succeed("journalctl -u appliance-update-watch.service --no-pager")


def test_with_every_other_package_gone_the_updater_still_rehearses_a_whole_update(trial: Container) -> None:
    """Fetch, verify, plan and write, with the image's own Python and systemd-sysupdate; what boots is the VM's part."""
    trial.succeed(f"systemctl stop {SERVICES}")
    for name in ("compliance_agent", "network_scanner", "local_portal", "appliance_protocol"):
        trial.succeed(f"mount -t tmpfs -o ro none /usr/lib/python3/dist-packages/{name}")
        assert trial.execute(f"cd / && python3 -c 'import {name} as it; print(it.__file__[0])'")[0] != 0
    trial.succeed("grep -v rehearsal_units /etc/appliance-update/config.toml > /run/alone.toml")
    report = json.loads(trial.succeed("appliance-update --config /run/alone.toml rehearse --json", PATIENCE))
    assert report["passed"], report
