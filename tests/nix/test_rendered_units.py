"""The units of every evaluated host: the distributions' own files, enabled and tuned, and nothing said twice."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.nix.files import DISTRIBUTIONS, ROOT, definition, sections, systemd_version, unit_files, values, verify

Host = dict[str, Any]
EXPOSURE_LIMITS = {"compliance-agent.service": 4.0, "network-scanner.service": 4.0, "local-portal.service": 3.0}


def source(package: str) -> Path:
    folder = "central" if package == "central-command" else package
    return next(path for path in DISTRIBUTIONS if path.name == folder)


def installed(host: Host) -> dict[str, str]:
    """What lies in /etc/systemd/system of our units: the shipped files, and the modules' drop-ins beside them."""
    shipped: dict[str, str] = host["units"]["shipped"]
    declared = host["units"]["declared"]
    texts = {name: declared.get(name, {}).get("text") for name in shipped}
    return shipped | {f"{name}.d/overrides.conf": text for name, text in texts.items() if text}


def test_no_host_has_a_failed_assertion_or_a_warning(host: Host) -> None:
    assert host["failedAssertions"] == []
    assert host["warnings"] == []


def test_the_units_are_the_files_of_the_distributions_with_programs_from_the_store(host: Host) -> None:
    for package, facts in host["packages"].items():
        folder = facts["program"].rsplit("/", 1)[0]
        for name, text in unit_files(source(package)).items():
            assert host["units"]["shipped"][name] == re.sub(r"/usr/bin/(?=[\w-]+)", f"{folder}/", text), name


def test_no_unit_needs_a_path_that_nixos_does_not_have(host: Host) -> None:
    for name, text in installed(host).items():
        for _, key, value in sections(text):
            # NixOS has /bin/sh and nothing else there.
            missing = re.search(r"(?<![\w.-])/usr/(bin|sbin|lib)/|(?<![\w./-])/s?bin/(?!sh\b)", value)
            assert not missing, f"{name}: {key}={value}"


def test_what_the_install_section_wants_is_what_nixos_enables(host: Host) -> None:
    for name, text in host["units"]["shipped"].items():
        for key, field in (("WantedBy", "wantedBy"), ("RequiredBy", "requiredBy"), ("Alias", "aliases")):
            wanted = {word for value in values(text, "Install", key) for word in value.split()}
            enabled = set(host["units"]["declared"].get(name, {}).get(field, []))
            assert enabled == wanted, f"{name}: {key}"


def test_systemd_finds_no_fault_with_the_units_as_they_are_on_the_host(host: Host, tmp_path: Path) -> None:
    assert verify(installed(host), tmp_path / "units") == []


def test_a_module_adds_to_a_unit_and_never_contradicts_it(host: Host) -> None:
    may_be_added = {"Environment", "EnvironmentFile", "LoadCredential", "After", "Requires", "X-Restart-Triggers"}
    may_be_added |= {"WantedBy", "RequiredBy", "Alias"}
    if host["boot"]["counting"]["enable"]:  # Nix evaluates and writes boot entries where an image is only copied
        may_be_added |= {"MemoryHigh", "TasksMax", "MemoryDenyWriteExecute", "CapabilityBoundingSet"}
    for name in host["units"]["shipped"]:
        text = host["units"]["declared"].get(name, {}).get("text") or ""
        assert {key for _, key, _ in sections(text)} <= may_be_added, name


@pytest.mark.skipif(systemd_version() < 252, reason="needs systemd-analyze security --offline")
def test_services_give_away_what_they_do_not_need(t640: Host, tmp_path: Path) -> None:
    for name, limit in EXPOSURE_LIMITS.items():
        file = tmp_path / name
        file.write_text(t640["units"]["shipped"][name])
        command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(file)]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        exposure = re.search(r"exposure level for \S+: ([\d.]+)", said.stdout)
        assert exposure, said.stderr
        assert float(exposure[1]) <= limit, said.stdout[-400:]


def test_a_system_on_trial_is_judged_before_it_is_blessed(t640: Host) -> None:
    gate = t640["units"]["shipped"]["boot-health.service"]
    assert "boot-complete.target" in values(gate, "Unit", "Before")
    assert "boot-complete.target" in t640["units"]["declared"]["boot-health.service"]["requiredBy"]
    assert values(t640["units"]["shipped"]["boot-complete.target.d/10-appliance.conf"], "Unit", "JobTimeoutAction")


def test_a_generation_host_runs_the_same_gate_under_boot_counting(rendered: dict[str, Host]) -> None:
    host = rendered["t640-rebuild"]
    assert host["boot"]["counting"] == {"enable": True, "tries": rendered["t640"]["boot"]["uki"]["tries"]}
    assert host["units"]["shipped"]["boot-health.service"]
    assert host["units"]["declared"]["appliance-update.timer"]["wantedBy"] == ["timers.target"]
    assert host["settings"]["appliance-update"]["generations"]["enable"]


def test_nothing_rewrites_boot_entries_or_collects_garbage_while_a_generation_is_on_trial(
    rendered: dict[str, Host],
) -> None:
    collector = definition(rendered["t640-rebuild"]["units"]["declared"]["nix-gc.service"]["text"])
    assert collector["Service", "ExecCondition"].endswith("appliance-generation-lock")
    assert "appliance-generation-lock" in rendered["t640-rebuild"]["switchChecks"]["appliance-trial"]


def test_an_initrd_that_cannot_go_on_restarts_the_machine(t640: Host) -> None:
    dropin = definition(t640["units"]["shippedInitrd"]["emergency.service.d/10-appliance.conf"])
    assert dropin["Unit", "SuccessAction"] == dropin["Unit", "FailureAction"] == "reboot-force"
    program = dropin["Service", "ExecStart"].lstrip("-")
    assert program in t640["units"]["initrdFiles"]


def test_hangs_are_the_watchdog_s_business_before_and_after_the_switch_of_roots(t640: Host) -> None:
    assert t640["manager"]["system"]["RuntimeWatchdogSec"] == "30s"
    assert t640["manager"]["system"]["WatchdogDevice"] == "/dev/watchdog0"
    assert t640["manager"]["initrd"]["RuntimeWatchdogSec"] == "60s"
    assert {t640["manager"][stage]["CrashAction"] for stage in ("system", "initrd")} == {"reboot"}
    assert "sp5100_tco" in t640["boot"]["initrdModules"]


def to_be_enabled() -> dict[str, str]:
    """Every unit in the tree with an [Install] section, as the stand-in's presets enable them; instances left out."""
    folders = [*ROOT.glob("agent/*/systemd"), ROOT / "agent/appliance-update/lifeline/systemd", ROOT / "image/seed"]
    files = [file for folder in folders for file in folder.iterdir() if file.is_file() and "@" not in file.name]
    return {file.name: file.read_text() for file in files if "\n[Install]" in file.read_text()}


def test_the_product_enables_every_unit_that_the_stand_in_enables(t640: Host) -> None:
    units = to_be_enabled()
    assert {"appliance-update-trial.service", "appliance-lifeline.timer", "appliance-status.socket"} <= set(units)
    for name, text in units.items():
        for key, field in (("WantedBy", "wantedBy"), ("RequiredBy", "requiredBy")):
            wanted = {word for value in values(text, "Install", key) for word in value.split()}
            assert wanted <= set(t640["units"]["declared"].get(name, {}).get(field, [])), name


def test_a_generation_host_marks_trials_settles_restores_and_rehearses(rendered: dict[str, Host]) -> None:
    declared = rendered["t640-rebuild"]["units"]["declared"]
    for unit in (
        "appliance-update-trial.service", "appliance-update-settle.service", "appliance-update-restore.service",
        "appliance-update-rehearse.timer", "appliance-update-request.path",
    ):  # fmt: skip
        assert declared[unit]["wantedBy"], unit
