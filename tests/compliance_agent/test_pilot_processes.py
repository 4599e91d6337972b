"""The pilot's failure and its kin as processes: the fault is the field's, and each is found where it should be.

What needs a boot loader is in tests/integration/test_pilot_replay.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance_protocol.orders import OrderState
from appliance_release import canary
from t640.paths import REPOSITORY
from tests.compliance_agent.central_peer import CODE, CentralPeer
from tests.compliance_agent.pilot_tree import command, installed, run

pytestmark = pytest.mark.exhaustive

SHARE = REPOSITORY / "agent/appliance-update/share"
LAYOUT = REPOSITORY / "image/layout.toml"
PATIENCE = 40.0


@pytest.fixture
def device(tmp_path: Path, central: CentralPeer) -> Path:
    """The configuration of a device that is enrolled, and on which an update order waits."""
    for name in ("state", "runtime", "requests"):
        (tmp_path / name).mkdir()
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[paths]\nstate = "{tmp_path}/state"\nruntime = "{tmp_path}/runtime"\nfacts = "{tmp_path}/facts.json"\n'
        f'update_requests = "{tmp_path}/requests"\nupdate_status = "{tmp_path}/status.json"\n'
        f'update_history = "{tmp_path}/history.jsonl"\nscanner_socket = "{tmp_path}/scanner.sock"\n'
    )
    good = installed(tmp_path / "good", "good")
    done = run(good, "compliance_agent.cli", config, "enrol", "--url", central.url, "--code", CODE,
               "--ca-file", str(central.ca_file))  # fmt: skip
    assert done.returncode == 0, done.stderr
    central.order("order-1", "update", parameters={"version": "2026.11.2"})
    return config


def until_it_dies(packages: Path, config: Path) -> tuple[int, str]:
    """Start the agent as its unit does; exit code and journal of its end."""
    done = subprocess.run(
        command(packages, "compliance_agent.cli", config, "run"),
        cwd="/", capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.fixture
def good_agent(tmp_path: Path, device: Path) -> Iterator[subprocess.Popen[bytes]]:
    packages = tmp_path / "good/usr/lib/python3/dist-packages"
    process = subprocess.Popen(command(packages, "compliance_agent.cli", device, "run"), cwd="/")
    yield process
    process.terminate()
    process.wait(20)


def test_the_pilots_agent_dies_of_its_update_order_at_every_start_and_the_fixed_one_ends_it(
    tmp_path: Path, device: Path, central: CentralPeer, request: pytest.FixtureRequest
) -> None:
    packages = installed(tmp_path / "pilot", "pilot-agent")
    for _ in range(4):  # once more than the sound agent would try
        code, journal = until_it_dies(packages, device)
        assert code == 1
        assert "mcp_api_key_file" in journal
    assert central.results == []
    assert list((tmp_path / "requests").iterdir()) == [], "the order that carries the fix never reaches the updater"
    # So the updater brought the fix by its own poll. The fixed agent finds the order, and ends it honestly.
    good: subprocess.Popen[bytes] = request.getfixturevalue("good_agent")
    end = time.monotonic() + PATIENCE
    while not central.results:
        assert time.monotonic() < end, "no result was reported"
        assert good.poll() is None, "the fixed agent died"
        time.sleep(0.1)
    assert central.results[0].state is OrderState.FAILED
    assert "cut off 4 times" in central.results[0].message


def test_the_late_death_comes_to_an_agent_that_was_well(tmp_path: Path, device: Path) -> None:
    packages = installed(tmp_path / "late", "late-death")
    module = packages / "compliance_agent/main.py"
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    module.write_text(module.read_text().replace("3600.0", f"{uptime + 15:.1f}"))  # its hour, shortened
    code, _ = until_it_dies(packages, device)
    assert code == 1
    assert (tmp_path / "runtime/progress").exists(), "it had been at work, so that a gate would have passed it"
    assert until_it_dies(packages, device)[0] == 1, "from then on it dies at every start"


# -- the updater's own faults -----------------------------------------------------------------------------------------


@pytest.fixture
def updater_config(tmp_path: Path) -> Path:
    """A host without slots of its own: what is rehearsed is metadata, choice, fetch and verification."""
    canary.make(tmp_path / "canary", LAYOUT)
    config = tmp_path / "updater.toml"
    config.write_text(
        f'[gate]\nslots = false\n[paths]\nstate = "{tmp_path}/updater"\nruntime = "{tmp_path}/run"\n'
        f'layout = "{LAYOUT}"\ncanary = "{tmp_path}/canary"\n'
    )
    return config


def test_an_updater_that_cannot_parse_new_metadata_fails_its_rehearsal(tmp_path: Path, updater_config: Path) -> None:
    good = run(installed(tmp_path / "good", "good"), "appliance_update.cli", updater_config, "rehearse")
    assert good.returncode == 0, good.stderr
    blind = run(installed(tmp_path / "blind", "blind-updater"), "appliance_update.cli", updater_config, "rehearse")
    assert blind.returncode == 8
    assert "unknown fields" in blind.stderr


def test_where_python_does_not_start_shell_reboots_and_later_calls_the_lifeline(tmp_path: Path) -> None:
    """Both programs name an interpreter that is gone; what systemd starts after them is shell."""
    state, efivars = tmp_path / "state", tmp_path / "efivars"
    state.mkdir()
    efivars.mkdir()
    program = tmp_path / "appliance-update"
    program.write_text(f"#!{sys.executable}-gone\n")
    program.chmod(0o755)
    counter = efivars / "LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
    counter.write_bytes(b"\6\0\0\0" + "\\EFI\\Linux\\t640_2026.11.2+1-2.efi\0".encode("utf-16-le"))
    environment = {
        "PATH": "/usr/bin:/bin", "APPLIANCE_STATE": str(state), "APPLIANCE_EFIVARS": str(efivars),
        "APPLIANCE_RUNTIME": str(tmp_path), "APPLIANCE_CONSOLE": "/dev/null", "APPLIANCE_AGAIN_AFTER": "0",
    }  # fmt: skip
    gate = subprocess.run(["/bin/sh", SHARE / "boot-health-reboot"], env=environment, check=False, capture_output=True)
    assert gate.returncode == 1, "on trial: this boot ends"
    subprocess.run(["/bin/sh", SHARE / "updater-broken", program], env=environment, check=False, capture_output=True)
    assert (state / "updater-broken").exists(), "committed: the lifeline is called"
