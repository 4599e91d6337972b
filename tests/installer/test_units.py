"""The unit files of the installer and of what takes a site's settings over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.installer.conftest import ROOT
from tests.nix.files import sections, values, verify

UNITS = (ROOT / "image/seed/appliance-seed.service", ROOT / "image/installer/install-appliance.service")


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_finds_no_fault_in_the_unit(unit: Path, tmp_path: Path) -> None:
    assert verify({unit.name: unit.read_text()}, tmp_path / "units") == []


def test_settings_are_there_before_those_who_read_them() -> None:
    text = UNITS[0].read_text()
    before = " ".join(values(text, "Unit", "Before")).split()
    assert {"systemd-networkd.service", "compliance-agent.service"} <= set(before)


def test_settings_that_cannot_be_taken_over_hold_nothing_up() -> None:
    text = UNITS[0].read_text()
    assert values(text, "Service", "TimeoutStartSec") == ["60"]
    pulled = [key for section, key, _ in sections(text) if section == "Install"]
    assert pulled == ["WantedBy"]
    # A unit that all others wait for has bricked boxes before.
    assert not any(target in text for target in ("Before=sysinit.target", "Before=multi-user.target", "RequiredBy"))


def test_the_agent_takes_the_code_from_where_it_is_put() -> None:
    agent = (ROOT / "agent/compliance-agent/systemd/compliance-agent.service").read_text()
    assert "compliance-agent.*" in values(agent, "Service", "ImportCredential")
    assert "credstore/compliance-agent.enrolment" in (ROOT / "image/seed/appliance-seed").read_text()


def test_the_installer_asks_again_after_a_refusal_and_never_restarts_the_machine() -> None:
    text = UNITS[1].read_text()
    assert values(text, "Service", "Restart") == ["on-failure"]
    assert values(text, "Unit", "StartLimitIntervalSec") == ["0"]
    scripts = [ROOT / "image/installer/install-appliance", *(ROOT / "image/installer/lib").glob("*.sh")]
    assert not any("reboot" in script.read_text() for script in scripts)
