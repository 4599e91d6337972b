"""The watchdog is fed by progress and by nothing else: shown on the real process with a real notification socket."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
WATCHDOG = 1.0
"""Seconds after which systemd would end the agent."""


class Manager:
    """The service manager's end: the notification socket and the process."""

    def __init__(self, directory: Path, fault: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(directory / "notify"))
        self.trigger = directory / "trigger"
        self.progress = directory / "runtime/progress"
        environment = dict(os.environ, NOTIFY_SOCKET=str(directory / "notify"), WATCHDOG_USEC=str(int(WATCHDOG * 1e6)))
        environment.pop("WATCHDOG_PID", None)
        command = [sys.executable, "-m", "tests.compliance_agent.faulty_agent"]
        self.process = subprocess.Popen(
            [*command, str(directory), fault, str(self.trigger)], cwd=ROOT, env=environment, stderr=subprocess.PIPE
        )

    def messages(self, seconds: float) -> Iterator[str]:
        """What is said within that time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and select.select([self.socket], [], [], left)[0]:
            yield from self.socket.recv(65536).decode().splitlines()

    def wait_for(self, wanted: str, seconds: float = 30.0) -> None:
        assert any(message == wanted for message in self.messages(seconds)), f"{wanted} was never said"

    def falls_silent(self, seconds: float = 20.0) -> bool:
        """Whether for a whole watchdog time no ping comes, within `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not any(message == "WATCHDOG=1" for message in self.messages(WATCHDOG)):
                return True
        return False

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        self.socket.close()


@pytest.fixture
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Manager]:
    (tmp_path / "runtime").mkdir()
    started = Manager(tmp_path, request.param)
    started.wait_for("READY=1")
    started.wait_for("WATCHDOG=1")
    yield started
    started.close()


@pytest.mark.parametrize("manager", ["loop"], indirect=True)
def test_a_stuck_loop_stops_the_pings(manager: Manager) -> None:
    manager.trigger.touch()
    assert manager.falls_silent()


@pytest.mark.parametrize("manager", ["task"], indirect=True)
def test_a_single_stuck_task_stops_the_pings_and_is_named(manager: Manager) -> None:
    manager.trigger.touch()
    assert any(message.startswith("STATUS=Stuck: results") for message in manager.messages(20))
    before = manager.progress.stat().st_mtime_ns
    assert list(manager.messages(WATCHDOG)) == []
    assert manager.progress.stat().st_mtime_ns == before  # boot-health sees it, too


@pytest.mark.parametrize("manager", ["raises"], indirect=True)
def test_a_task_that_fails_at_every_turn_makes_progress_all_the_same(manager: Manager) -> None:
    manager.trigger.touch()
    assert not manager.falls_silent(WATCHDOG * 2)


@pytest.mark.parametrize("manager", ["none"], indirect=True)
def test_a_healthy_agent_pings_writes_progress_and_ends_on_sigterm(manager: Manager) -> None:
    document = msgspec.json.decode(manager.progress.read_bytes())
    assert set(document["tasks"]) >= {"checks", "check-in", "evidence", "upload", "orders", "prune"}
    assert manager.progress.stat().st_mode & 0o777 == 0o644
    manager.process.send_signal(signal.SIGTERM)
    manager.wait_for("STOPPING=1")
    assert manager.process.wait(10) == 0
    with contextlib.suppress(FileNotFoundError):
        assert not (manager.progress.parent / "api.sock").exists()


@pytest.mark.parametrize("manager", ["none"], indirect=True)
def test_a_stopped_process_stops_the_pings(manager: Manager) -> None:
    manager.process.send_signal(signal.SIGSTOP)
    assert manager.falls_silent()
    manager.process.send_signal(signal.SIGCONT)
    manager.wait_for("WATCHDOG=1")
