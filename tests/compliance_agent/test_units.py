"""The units as shipped: systemd reads them, they are hardened, and they say what the program relies on."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "agent/compliance-agent"
UNITS = sorted((FOLDER / "systemd").iterdir())
NEWER_THAN_252 = ("ImportCredential", "RestartSteps", "RestartMaxDelaySec")
"""Settings of the appliance's systemd that Debian 12's does not know; it says so and goes on."""

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def unit(name: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((FOLDER / "systemd" / name).read_text())
    return parser["Service"]


@needs_analyze
def test_systemd_reads_every_unit_without_complaint(tmp_path: Path) -> None:
    for path in UNITS:
        text = path.read_text().replace("/usr/bin/compliance-agent", "/bin/true")
        (tmp_path / path.name).write_text(text)
    files = [str(tmp_path / path.name) for path in UNITS]
    command = ["systemd-analyze", "verify", "--man=no", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if not any(key in line for key in NEWER_THAN_252)]
    assert complaints == []


@needs_analyze
@pytest.mark.parametrize(
    ("name", "most"), [("compliance-agent.service", 2.0), ("compliance-agent-collect.service", 3.0)]
)
def test_the_services_are_exposed_as_little_as_they_can_be(name: str, most: float) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(FOLDER / "systemd" / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found.group(1)) <= most


def test_the_service_is_watched_restarted_for_ever_and_holds_no_capability() -> None:
    service = unit("compliance-agent.service")
    assert (service["Type"], service["Restart"]) == ("notify", "always")
    assert int(service["WatchdogSec"]) >= 60
    assert service["CapabilityBoundingSet"] == ""
    assert "StartLimitIntervalSec=0" in (FOLDER / "systemd/compliance-agent.service").read_text()
    assert {"appliance-local", "systemd-journal"} <= set(service["SupplementaryGroups"].split())


def test_the_kernels_clock_state_may_be_read_and_the_socket_given_away() -> None:
    text = (FOLDER / "systemd/compliance-agent.service").read_text()
    filters = [line.partition("=")[2] for line in text.splitlines() if line.startswith("SystemCallFilter=")]
    assert filters[-1] == "adjtimex @chown"  # after the lists that take them away
    assert not re.search(r"^ProtectClock=yes", text, re.MULTILINE)


def test_polkit_lets_the_agent_start_its_collector_and_only_that() -> None:
    rule = (FOLDER / "polkit-1/50-compliance-agent.rules").read_text()
    assert 'action.lookup("unit") == "compliance-agent-collect.service"' in rule
    assert 'action.lookup("verb") == "start"' in rule
    assert 'subject.user == "compliance-agent"' in rule
    assert rule.count("Result.YES") == 1


def test_the_request_box_lets_the_agent_write_and_not_look() -> None:
    lines = (FOLDER / "tmpfiles.d/compliance-agent.conf").read_text().splitlines()
    assert "d /run/appliance-update/requests 0730 root compliance-agent" in lines
