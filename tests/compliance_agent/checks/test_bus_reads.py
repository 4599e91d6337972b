"""Checks that ask D-Bus, over a real bus: a private dbus-daemon with stand-ins for the services on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compliance_agent.checks import recorded

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
CONFIGURATION = """<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <policy context="default">
    <allow user="*"/><allow own="*"/>
    <allow send_type="method_call"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""
NOW = int(recorded.NOW.wall * 1e6)
REQUIRED = ("compliance-agent.service", "network-scanner.service", "local-portal.service")


def unit(name: str, active: str, sub: str) -> list[Any]:
    return [name, name, "loaded", active, sub, "", "/org/freedesktop/systemd1/unit/x", 0, "", "/"]


def good() -> dict[str, Any]:
    asked = NOW - 60_000_000
    times = (asked, asked + 9000, asked + 9100, asked + 18_000)
    return {
        "units": [unit(name, "active", "running") for name in REQUIRED],
        "watchdog": 30_000_000,
        "ntp": [*(0, 4, 4, 2, -25, 9, 9, [198, 51, 100, 10]), *times, False, 7, 4000],
    }


@dataclass
class PrivateBus:
    """A bus daemon and the services on it."""

    address: str
    answers: Path
    root: Path

    def ask(self, *check_ids: str) -> dict[str, list[str]]:
        """What the checks say, asked in a process whose system bus is this one."""
        done = subprocess.run(
            [sys.executable, str(HERE / "ask_bus.py"), str(self.root), *check_ids],
            env=os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": self.address, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    def say(self, **changes: Any) -> None:
        """Have the services answer differently."""
        self.answers.write_text(json.dumps(good() | changes))


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateBus]:
    folder = tmp_path_factory.mktemp("bus")
    address = f"unix:path={folder}/socket"
    (folder / "bus.conf").write_text(CONFIGURATION.format(socket=folder / "socket"))
    recorded.write(folder / "root", "/sys/class/watchdog/watchdog0/state", b"active\n")
    private = PrivateBus(address, folder / "answers.json", folder / "root")
    private.say()
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork", "--print-address=1"], stdout=subprocess.PIPE
    )
    services = None
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline(), "the bus did not start"
        services = subprocess.Popen(
            [sys.executable, str(HERE / "fake_services.py"), address, str(private.answers)], stdout=subprocess.PIPE
        )
        assert services.stdout is not None
        assert services.stdout.readline() == b"ready\n", "the services did not start"
        yield private
    finally:
        for process in (services, daemon):
            if process is not None:
                process.terminate()
                process.wait(10)
                assert process.stdout is not None
                process.stdout.close()


def test_checks_pass_when_the_services_say_that_all_is_well(bus: PrivateBus) -> None:
    bus.say()
    said = bus.ask("failed-units", "time-synchronisation", "watchdog")
    assert {check_id: verdict for check_id, (verdict, _) in said.items()} == {
        "failed-units": "pass",
        "time-synchronisation": "pass",
        "watchdog": "pass",
    }


def test_checks_fail_when_the_services_say_otherwise(bus: PrivateBus) -> None:
    bus.say(
        units=[*good()["units"][:2], unit("local-portal.service", "activating", "auto-restart")],
        ntp=[3, *good()["ntp"][1:]],
        watchdog=0,
    )
    said = bus.ask("failed-units", "time-synchronisation", "watchdog")
    assert {verdict for verdict, _ in said.values()} == {"fail"}
    assert "local-portal.service" in said["failed-units"][1]


def test_a_service_that_is_not_on_the_bus_is_an_error_that_names_it(bus: PrivateBus) -> None:
    verdict, reason = bus.ask("login-audit", "ssh-policy")["ssh-policy"]
    assert verdict == "error"
    assert "/proc/net/tcp" in reason or "D-Bus" in reason
