"""Privileged facts are collected on demand, by asking the service manager over a real bus."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CONFIGURATION = """<busconfig><type>system</type><listen>unix:path={socket}</listen>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/>
<allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>"""
ASK = """
import sys; from pathlib import Path
from compliance_agent.bus import SystemBus
from compliance_agent.errors import CheckError
from compliance_agent.facts.collected import SYSTEMD, refresh
bus = SystemBus()
try:
    if sys.argv[2:]:
        bus.call(*SYSTEMD, "StartUnit", sys.argv[2], "replace")
    else:
        print(refresh(bus, Path(sys.argv[1])))
except CheckError as error:
    print(error)
"""


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[object]:
    (tmp_path / "bus.conf").write_text(CONFIGURATION.format(socket=tmp_path / "bus"))
    address = f"unix:path={tmp_path}/bus"
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={tmp_path}/bus.conf", "--nofork", "--print-address=1"], stdout=subprocess.PIPE
    )
    assert daemon.stdout is not None
    daemon.stdout.readline()
    manager = subprocess.Popen(
        [sys.executable, str(HERE / "fake_manager.py"), address, str(tmp_path / "facts.json")], stdout=subprocess.PIPE
    )
    assert manager.stdout is not None
    assert manager.stdout.readline() == b"ready\n"

    def run(*arguments: str, address: str = address) -> str:
        done = subprocess.run(
            [sys.executable, "-c", ASK, str(tmp_path / "facts.json"), *arguments],
            env=os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": address},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout.strip()

    yield run
    for process in (manager, daemon):
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def test_the_collector_is_started_and_waited_for(ask: object, tmp_path: Path) -> None:
    assert ask() == "True"  # type: ignore[operator]
    assert (tmp_path / "facts.json").exists()


def test_facts_of_a_moment_ago_are_not_collected_again(ask: object, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text("kept")
    assert ask() == "True"  # type: ignore[operator]
    assert (tmp_path / "facts.json").read_text() == "kept"


def test_old_facts_are_collected_again(ask: object, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text("old")
    os.utime(tmp_path / "facts.json", (time.time() - 100,) * 2)
    assert ask() == "True"  # type: ignore[operator]
    assert (tmp_path / "facts.json").read_text() != "old"


def test_what_the_manager_refuses_is_told_with_the_call(ask: object) -> None:
    said = ask("sshd.service")  # type: ignore[operator]
    assert "StartUnit(sshd.service, replace)" in said
    assert "authentication required" in said


def test_without_a_bus_the_reason_is_told(ask: object) -> None:
    assert "Could not connect" in ask(address="unix:path=/nowhere/bus")  # type: ignore[operator]
