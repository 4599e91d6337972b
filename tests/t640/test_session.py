"""However a run ends, nothing of it is left: no process, no namespace, no file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t640 import session as sessions
from t640.paths import PACKAGE
from t640.session import clean_up_after_the_dead, open_session

pytestmark = pytest.mark.netns

RUN = """
import time
from t640.session import open_session
with open_session() as session:
    namespace = session.add_namespace("clinic")
    process = session.start("sleeper", ["sh", "-c", "sleep 987 & sleep 987"], namespace=namespace)
    print(session.name, process.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    monkeypatch.setenv("APPLIANCE_CACHE", str(tmp_path / "cache"))
    # A register of their own: another run on this machine would clear away what these tests look at.
    monkeypatch.setenv("T640_REGISTRY", str(tmp_path / "register"))
    monkeypatch.setattr(sessions, "REGISTRY", tmp_path / "register")


def started() -> tuple[subprocess.Popen[str], str, int]:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    run = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True, env=environment)
    assert run.stdout is not None
    name, pid = run.stdout.readline().split()
    return run, name, int(pid)


def left_over(name: str, pid: int) -> list[str]:
    """What is still there of a run."""
    found = [str(path) for path in Path("/run/netns").glob(f"{name}*")]
    with contextlib.suppress(OSError):
        found += [f"process {pid}"] if Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" else []
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if name in line]
    return found + mounts + [str(path) for path in sessions.REGISTRY.glob(f"{name}*")]


def gone(name: str, pid: int) -> bool:
    end = time.monotonic() + 10
    while left_over(name, pid) and time.monotonic() < end:
        time.sleep(0.1)
    return left_over(name, pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_everything_down(number: signal.Signals) -> None:
    run, name, pid = started()
    run.send_signal(number)
    assert run.wait(20) != 0
    assert gone(name, pid)


def test_a_second_signal_does_not_disturb_the_clearing_up() -> None:
    run, name, pid = started()
    for _ in range(4):
        run.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    run.wait(20)
    assert gone(name, pid)


def test_what_a_killed_run_leaves_is_cleared_away_by_the_next_one() -> None:
    run, name, pid = started()
    run.kill()
    run.wait(20)
    assert left_over(name, pid) != []
    clean_up_after_the_dead()
    assert gone(name, pid)


def test_a_living_run_is_left_alone() -> None:
    run, name, pid = started()
    assert name not in clean_up_after_the_dead()
    assert Path(f"/proc/{pid}").exists()
    run.terminate()
    run.wait(20)


def test_a_record_whose_pid_was_given_to_another_process_counts_as_dead(tmp_path: Path) -> None:
    sessions.REGISTRY.mkdir(exist_ok=True)
    record = sessions.REGISTRY / "t640-dead.json"
    record.write_text(json.dumps({"pid": os.getpid(), "started": "1", "work": str(tmp_path / "x")}))
    assert "t640-dead" in clean_up_after_the_dead()
    assert not record.exists()


def test_two_runs_live_side_by_side() -> None:
    with open_session() as one, open_session() as two:
        assert one.add_namespace("clinic") != two.add_namespace("clinic")
