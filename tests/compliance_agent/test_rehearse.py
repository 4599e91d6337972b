"""The rehearsal of an update order: the pilot's failure, and its kin, are found before a release becomes good."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from appliance_protocol.keys import PrivateKey
from appliance_protocol.orders import Order
from appliance_protocol.wire import canonical
from compliance_agent.identity import Enrolment
from compliance_agent.ledger import Ledger
from compliance_agent.rehearsal import Report, rehearse
from compliance_agent.store import Store
from t640 import variants
from t640.errors import RigError
from tests.compliance_agent.pilot_tree import installed, run
from tests.compliance_agent.test_units import FOLDER, unit

ENROLMENT = Enrolment("device-1", "site", "Site", "https://central.example", (PrivateKey.generate().public.text,), 0.0)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A device that has run for a while: state, request box, the updater's files, and a configuration of its own."""
    for name in ("state", "runtime", "requests", "scratch"):
        (tmp_path / name).mkdir()
    (tmp_path / "state/enrolment.json").write_bytes(canonical(ENROLMENT))
    PrivateKey.generate().save(tmp_path / "state/device.key")
    for books in (Store(tmp_path / "state/agent.db"), Ledger(tmp_path / "state/evidence.db")):
        books.database.query("SELECT 1 AS made")
        books.database.close()
    (tmp_path / "status.json").write_text('{"format": 1, "state": "idle", "a-field-to-come": {}}')
    (tmp_path / "history.jsonl").write_text('{"event": "committed", "version": "2026.11.1"}\n{"torn')
    (tmp_path / "config.toml").write_text(
        f'log_level = "warning"\na_key_to_come = 1\n[paths]\nstate = "{tmp_path}/state"\n'
        f'runtime = "{tmp_path}/runtime"\n'
        f'update_requests = "{tmp_path}/requests"\nupdate_status = "{tmp_path}/status.json"\n'
        f'update_history = "{tmp_path}/history.jsonl"\nscanner_socket = "{tmp_path}/scanner.sock"\n'
    )
    return tmp_path


def walk(box: Path) -> Report:
    return rehearse(box / "config.toml", box / "scratch")


def content(directory: Path) -> dict[str, bytes]:
    """Every file, but the two that any reader of a database in WAL mode makes beside it."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path): path.read_bytes() for path in files if not path.name.endswith(("-wal", "-shm"))}


def test_a_sound_agent_asks_the_updater_follows_it_and_can_report(box: Path) -> None:
    report = walk(box)
    assert report.passed, report.reason
    assert report.stages == [
        "configuration", "identity", "books", "the updater's files", "start", "take the order", "ask the updater",
        "follow the update", "report",
    ]  # fmt: skip
    assert report.remarks == []


def test_nothing_real_is_touched(box: Path) -> None:
    real = [box / name for name in ("state", "runtime", "requests")]
    before = [content(directory) for directory in real]
    assert walk(box).passed
    assert [content(directory) for directory in real] == before
    assert list((box / "requests").iterdir()) == []


def test_a_device_that_was_never_enrolled_can_rehearse(box: Path) -> None:
    shutil.rmtree(box / "state")
    report = walk(box)
    assert report.passed, report.reason
    assert not (box / "state").exists()


def test_books_that_this_release_cannot_read_fail_it(box: Path) -> None:
    store = Store(box / "state/agent.db")
    store.receive(Order("order-1", "device-1", "update", 0.0, 1.0), 0.5)
    store.database.close()
    with sqlite3.connect(box / "state/agent.db") as connection:
        connection.execute("ALTER TABLE orders RENAME COLUMN context TO memory")
    connection.close()
    report = walk(box)
    assert not report.passed
    assert "books: " in report.reason
    assert "agent.db" in report.reason


def test_damaged_books_are_no_releases_fault(box: Path) -> None:
    (box / "state/agent.db").write_bytes(b"no database at all" * 300)
    report = walk(box)
    assert report.passed, report.reason
    assert "agent.db" in report.remarks[0]


def test_an_enrolment_that_lacks_what_this_release_wants_fails_it(box: Path) -> None:
    (box / "state/enrolment.json").write_text('{"device_id": "device-1"}')
    assert walk(box).reason.startswith("identity: IdentityError: ")


def test_a_damaged_enrolment_is_no_releases_fault(box: Path) -> None:
    (box / "state/enrolment.json").write_bytes(b"\0\0\0")
    report = walk(box)
    assert report.passed, report.reason
    assert "is damaged" in report.remarks[0]


def test_a_wrong_value_in_the_configuration_is_a_remark_because_the_service_runs_on(box: Path) -> None:
    text = (box / "config.toml").read_text()
    (box / "config.toml").write_text(text.replace('log_level = "warning"', 'log_level = "loud"'))
    report = walk(box)
    assert report.passed, report.reason
    assert "log_level" in report.remarks[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_request_box_that_takes_nothing_fails_it(box: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(box / "requests")], check=True)
    try:
        assert "no request can be dropped into" in walk(box).reason
    finally:
        subprocess.run(["umount", "--lazy", str(box / "requests")], check=True)


# -- the pilot's failure and its kin, as processes --------------------------------------------------------------------


def agent(packages: Path, box: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(packages, "compliance_agent.cli", box / "config.toml", *arguments)


@pytest.mark.parametrize(
    ("variant", "said"),
    [("pilot-agent", "mcp_api_key_file"), ("missing-key", "no attribute 'update_channel'")],
)
def test_an_agent_that_cannot_handle_its_update_order_fails_the_rehearsal(
    box: Path, tmp_path: Path, variant: str, said: str
) -> None:
    done = agent(installed(tmp_path / "image", variant), box, "rehearse")
    assert done.returncode != 0
    assert said in done.stderr.splitlines()[-1], done.stderr


@pytest.mark.parametrize("variant", ["good", "late-death", "blind-updater"])
def test_an_agent_whose_fault_lies_elsewhere_passes_its_part(box: Path, tmp_path: Path, variant: str) -> None:
    done = agent(installed(tmp_path / "image", variant), box, "rehearse", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] is True


def test_a_fault_whose_place_in_the_sources_is_gone_is_an_error_and_not_a_good_image(tmp_path: Path) -> None:
    (installed(tmp_path, "good") / "compliance_agent/orders/update.py").write_text("# rewritten\n")
    with pytest.raises(RigError, match="adapt variants"):
        variants.apply(tmp_path, "missing-key")


# -- the unit ---------------------------------------------------------------------------------------------------------


def test_it_rehearses_as_the_same_user_in_the_same_sandbox_as_the_service() -> None:
    own, service = unit("compliance-agent-rehearse.service"), unit("compliance-agent.service")
    different = {
        "Type", "NotifyAccess", "ExecStart", "Restart", "RestartSec", "RestartSteps", "RestartMaxDelaySec", "OOMPolicy",
        "TimeoutStartSec", "TimeoutStopSec", "WatchdogSec", "RuntimeDirectory", "RuntimeDirectoryMode",
        "ImportCredential",
    }  # fmt: skip
    assert {key: value for key, value in own.items() if key not in different} == {
        key: value for key, value in service.items() if key not in different
    }
    text = (FOLDER / "systemd/compliance-agent-rehearse.service").read_text()
    for line in (FOLDER / "systemd/compliance-agent.service").read_text().splitlines():
        if line.startswith("SystemCallFilter="):
            assert line in text.splitlines()


def test_the_end_of_a_rehearsal_takes_nothing_of_the_running_agents_away() -> None:
    assert "RuntimeDirectory" not in unit("compliance-agent-rehearse.service")
    assert unit("compliance-agent-rehearse.service")["PrivateTmp"] == "yes"
