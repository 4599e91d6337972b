"""The gate's last resort is shell: it works when Python does not, and it never reboots for ever."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from appliance_update.host import LOADER_GUID

SHARE = Path(__file__).parents[2] / "agent/appliance-update/share"
LAYOUT = Path(__file__).parents[2] / "image/layout.toml"
SCRIPTS = ("boot-health-reboot", "boot-health-uncounted", "updater-broken")


class Box:
    """The files that the scripts look at, and the scripts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.efivars, self.state, self.runtime = (directory / name for name in ("efivars", "state", "run"))
        self.esp = directory / "boot"
        self.ukis = self.esp / "EFI/Linux"
        for folder in (self.efivars, self.state, self.runtime, self.ukis):
            folder.mkdir(parents=True)
        (directory / "os-release").write_text('NAME="Appliance"\nIMAGE_VERSION=2026.11.2\n')

    def variable(self, name: str, text: str) -> None:
        (self.efivars / f"{name}-{LOADER_GUID}").write_bytes(b"\6\0\0\0" + f"{text}\0".encode("utf-16-le"))

    def counted(self, name: str) -> None:
        self.variable("LoaderBootCountPath", f"\\EFI\\Linux\\{name}")

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {
            "APPLIANCE_EFIVARS": self.efivars, "APPLIANCE_STATE": self.state, "APPLIANCE_RUNTIME": self.runtime,
            "APPLIANCE_LAYOUT": LAYOUT, "APPLIANCE_OS_RELEASE": self.directory / "os-release",
            "APPLIANCE_CONSOLE": self.directory / "console", "APPLIANCE_ESP": self.esp,
            "APPLIANCE_REBOOT": f"touch {self.directory}/rebooted", "APPLIANCE_AGAIN_AFTER": "0",
        }  # fmt: skip
        return subprocess.run(
            ["/bin/sh", str(SHARE / script), *arguments],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **{key: str(value) for key, value in known.items()}}
            | environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def rebooted(self) -> bool:
        return (self.directory / "rebooted").exists()

    @property
    def broken(self) -> str:
        path = self.state / "updater-broken"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_are_plain_shell_and_shellcheck_has_nothing_to_say(script: str) -> None:
    assert (SHARE / script).read_text().startswith("#!/bin/sh\n")
    assert subprocess.run(["/bin/sh", "-n", str(SHARE / script)], check=False).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", str(SHARE / script)], capture_output=True, text=True, check=False)
        assert done.stdout == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_call_no_python(script: str) -> None:
    code = [line for line in (SHARE / script).read_text().splitlines() if not line.lstrip().startswith("#")]
    assert not any("python" in line for line in code)


# -- to reboot, or not to ---------------------------------------------------------------------------------------------


REBOOT, STAY = 1, 0


@pytest.mark.parametrize(
    ("name", "decision"),
    [
        ("t640_2026.11.2+2-1.efi", REBOOT),
        ("t640_2026.11.2+1-2.efi", REBOOT),
        ("t640_2026.11.2+0-3.efi", REBOOT),
        ("t640_2026.11.2+0-4.efi", STAY),
        ("t640_2026.11.2+0-11.efi", STAY),
        ("t640_2026.11.2+3.efi", REBOOT),
        ("nixos-generation-7+0-3.conf", REBOOT),
        ("nixos-generation-7+0-4.conf", STAY),
    ],
)
def test_a_bad_boot_ends_unless_the_loader_had_nothing_better(box: Box, name: str, decision: int) -> None:
    box.counted(name)
    assert box.run("boot-health-reboot").returncode == decision


@pytest.mark.parametrize("path", ["", "t640+x-y.efi", "t640+9", "\\EFI\\Linux\\t640_2026.11.2.efi", "+-.efi"])
def test_what_cannot_be_told_reboots_but_never_for_ever(box: Box, path: str) -> None:
    box.variable("LoaderBootCountPath", path)
    decisions = [box.run("boot-health-reboot").returncode for _ in range(9)]
    assert decisions == [REBOOT] * 6 + [STAY] * 3


def test_an_unreadable_counter_of_one_version_is_not_held_against_another(box: Box) -> None:
    for _ in range(7):
        box.run("boot-health-reboot")
    (box.directory / "os-release").write_text("IMAGE_VERSION=2026.11.3\n")
    assert box.run("boot-health-reboot").returncode == REBOOT


def test_without_a_state_disk_and_a_console_it_still_decides(box: Box) -> None:
    box.counted("t640_2026.11.2+1-2.efi")
    nowhere = {"APPLIANCE_STATE": "/proc/nowhere", "APPLIANCE_CONSOLE": "/proc/nowhere", "APPLIANCE_LAYOUT": "/nowhere"}
    assert box.run("boot-health-reboot", **nowhere).returncode == REBOOT
    box.counted("t640_2026.11.2+0-4.efi")
    assert box.run("boot-health-reboot", **nowhere).returncode == STAY


def test_it_says_why_on_the_console(box: Box) -> None:
    box.counted("t640_2026.11.2+1-2.efi")
    box.run("boot-health-reboot")
    assert "2026.11.2 is not good; rebooting (1 tries left)" in (box.directory / "console").read_text()


def test_staying_with_a_broken_updater_calls_the_lifeline(box: Box) -> None:
    box.counted("t640_2026.11.2+0-4.efi")
    box.run("boot-health-reboot")
    assert "2026.11.2" in box.broken


def test_staying_with_an_updater_that_works_leaves_the_lifeline_asleep(box: Box) -> None:
    (box.runtime / "rehearsal.json").write_text('{\n "boot_id": "x",\n "passed": true\n}\n')
    box.counted("t640_2026.11.2+0-4.efi")
    assert box.run("boot-health-reboot").returncode == STAY
    assert box.broken == ""


PINNED = "timeout 0\ndefault t640_2026.11.2*\neditor no\n"


def pin(box: Box, counter: str, *others: str) -> Path:
    """The loader boots a spent 2026.11.2 by a `default`, whatever else is there."""
    for name in (f"t640_2026.11.2{counter}.efi", *others):
        (box.ukis / name).touch()
    (box.esp / "loader").mkdir()
    settings = box.esp / "loader/loader.conf"
    settings.write_text(PINNED)
    box.counted(f"t640_2026.11.2{counter}.efi")
    return settings


@pytest.mark.parametrize("other", ["t640_2026.11.1.efi", "t640_2026.11.3+2-1.efi"])
def test_a_pinned_bad_version_loses_its_pin_when_there_is_something_better(box: Box, other: str) -> None:
    settings = pin(box, "+0-4", other)
    assert box.run("boot-health-reboot").returncode == REBOOT
    assert settings.read_text() == "timeout 0\neditor no\n"
    assert other in (box.directory / "console").read_text()
    assert box.broken == ""


@pytest.mark.parametrize(
    ("counter", "others"),
    [
        ("+0-4", ()),
        ("+0-4", ("t640_2026.11.1+0-3.efi", "t640-recovery_2026.10.1+0-3.efi")),
        ("+0-4", ("t640_2026.11.1+0-3.efi", "t640-recovery_2026.10.1+3.efi")),
        ("+0-4", ("t640-recovery_2026.10.1.efi",)),
        ("+0-5", ("t640_2026.11.1.efi",)),
    ],
)
def test_without_anything_better_or_a_second_time_the_pin_is_left_alone(
    box: Box, counter: str, others: tuple[str, ...]
) -> None:
    settings = pin(box, counter, *others)
    assert box.run("boot-health-reboot").returncode == STAY
    assert settings.read_text() == PINNED


def test_a_second_chance_from_the_recovery_that_fails_its_gate_stays_up_and_calls_the_lifeline(box: Box) -> None:
    for name in ("t640_2026.11.2+0-4.efi", "t640_2026.11.1+0-3.efi", "t640-recovery_2026.10.1+3.efi"):
        (box.ukis / name).touch()
    box.counted("t640_2026.11.2+0-4.efi")
    assert box.run("boot-health-reboot").returncode == STAY
    assert "2026.11.2" in box.broken


def test_a_spent_version_that_nothing_in_the_settings_pinned_is_left_once(box: Box) -> None:
    """Chosen in the firmware's variables, or by a person in the menu."""
    pin(box, "+0-4", "t640_2026.11.1.efi").unlink()
    assert box.run("boot-health-reboot").returncode == REBOOT


def test_rebooting_leaves_no_mark_that_the_old_version_would_find(box: Box) -> None:
    box.counted("t640_2026.11.2+0-3.efi")
    box.run("boot-health-reboot")
    assert box.broken == ""


# -- a boot nobody counted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selected", ["t640_2026.11.2.efi", "t640_2026.11.2+3-0.efi"])
def test_a_trial_that_was_not_counted_is_left_for_the_version_before(box: Box, selected: str) -> None:
    box.variable("LoaderEntrySelected", selected)
    (box.ukis / "t640_2026.11.1.efi").touch()
    (box.ukis / "t640_2026.11.2+3-0.efi").touch(0o444)
    box.run("boot-health-uncounted")
    assert sorted(path.name for path in box.ukis.iterdir()) == ["t640_2026.11.1.efi", "t640_2026.11.2+0-1.efi"]
    assert box.rebooted
    assert "did not count" in (box.state / "last-gate.json").read_text()


def test_its_reason_reaches_the_history_of_the_version_before(box: Box) -> None:
    from appliance_update.failed_boot import last_gate_failure

    test_a_trial_that_was_not_counted_is_left_for_the_version_before(box, "t640_2026.11.2.efi")
    assert "the boot loader did not count its boot" in last_gate_failure(box.state, "2026.11.2")


@pytest.mark.parametrize(
    "names",
    [
        ["t640_2026.11.1.efi", "t640_2026.11.2.efi"],  # blessed: not counted any more
        ["t640_2026.11.2+3.efi"],  # nothing else to boot
        ["t640_2026.11.1+0-3.efi", "t640_2026.11.2+3-0.efi"],  # nothing else that may boot
        ["t640-recovery_2026.10.1+3.efi", "t640_2026.11.1+0-3.efi", "t640_2026.11.2+3.efi"],  # a recovery is no version
        ["t640-recovery_2026.10.1.efi", "t640_2026.11.2+3.efi"],
        ["t640_2026.11.1.efi"],
        [],
    ],
)
def test_without_a_need_or_an_alternative_nothing_is_touched(box: Box, names: list[str]) -> None:
    box.variable("LoaderEntrySelected", "t640_2026.11.2.efi")
    for name in names:
        (box.ukis / name).touch()
    assert box.run("boot-health-uncounted").returncode == 0
    assert sorted(path.name for path in box.ukis.iterdir()) == sorted(names)
    assert not box.rebooted


def test_a_boot_that_was_counted_is_the_gates_affair(box: Box) -> None:
    box.variable("LoaderEntrySelected", "t640_2026.11.2.efi")
    box.counted("t640_2026.11.2+2-1.efi")
    (box.ukis / "t640_2026.11.1.efi").touch()
    (box.ukis / "t640_2026.11.2+2-1.efi").touch()
    box.run("boot-health-uncounted")
    assert not box.rebooted


# -- a rehearsal that could not even report ---------------------------------------------------------------------------


def rehearsal(box: Box, code: int) -> str:
    program = box.directory / "appliance-update"
    program.write_text(f'#!/bin/sh\necho "$@" >>{box.directory}/calls\nexit {code}\n')
    program.chmod(0o755)
    return str(program)


def crashed(code: int = 127) -> dict[str, str]:
    return {"MONITOR_EXIT_CODE": "exited", "MONITOR_EXIT_STATUS": str(code)}


@pytest.mark.parametrize("code", [1, 2, 127, 139])
def test_a_rehearsal_that_does_not_run_is_tried_again_and_then_calls_the_lifeline(box: Box, code: int) -> None:
    box.run("updater-broken", rehearsal(box, code), **crashed())
    assert (box.directory / "calls").read_text() == "rehearse\n"
    assert f"ended with {code}" in box.broken
    assert len(box.broken.splitlines()) == 1


def test_an_interpreter_that_is_gone_calls_the_lifeline(box: Box) -> None:
    program = box.directory / "appliance-update"
    program.write_text("#!/nowhere/python3\n")
    program.chmod(0o755)
    box.run("updater-broken", str(program), **crashed())
    assert box.broken


@pytest.mark.parametrize("code", [0, 8])
def test_a_second_try_that_comes_to_its_own_end_has_drawn_its_own_consequences(box: Box, code: int) -> None:
    box.run("updater-broken", rehearsal(box, code), **crashed())
    assert box.broken == ""


def test_a_rehearsal_that_judged_is_not_tried_again(box: Box) -> None:
    box.run("updater-broken", rehearsal(box, 127), **crashed(8))
    assert not (box.directory / "calls").exists()
    assert box.broken == ""


def test_on_trial_the_gate_decides_and_the_lifeline_sleeps(box: Box) -> None:
    (box.runtime / "trial").touch()
    box.run("updater-broken", rehearsal(box, 127), **crashed())
    assert not (box.directory / "calls").exists()
    assert box.broken == ""


# -- the units --------------------------------------------------------------------------------------------------------


def unit(name: str) -> str:
    return (SHARE.parent / "systemd" / name).read_text()


def test_a_failed_gate_reboots_by_a_chain_without_python() -> None:
    assert "OnFailure=boot-health-reboot.service" in unit("boot-health.service")
    reboot = unit("boot-health-reboot.service")
    assert "FailureAction=reboot-force" in reboot
    assert "ExecStart=/bin/sh /usr/share/appliance-update/boot-health-reboot" in reboot
    assert "RequiredBy=boot-complete.target" in unit("boot-health.service")
    assert "JobTimeoutAction=reboot-force" in unit("boot-complete.target.d/10-appliance.conf")


@pytest.mark.parametrize("name", ["boot-health-reboot.service", "boot-health-uncounted.service"])
def test_the_way_back_does_not_need_the_state_to_be_mounted(name: str) -> None:
    """A unit that needs /var fails with it before it begins, and then its FailureAction never comes."""
    needs = [line for line in unit(name).splitlines() if "Directory=" in line or "MountsFor=" in line]
    assert [line for line in needs if not line.startswith("#")] == []


def test_the_rehearsal_runs_in_the_sandbox_of_what_it_rehearses() -> None:
    def sandbox(name: str) -> set[str]:
        skip = (
            "Description=",
            "ExecStart=",
            "TimeoutStartSec=",
            "Nice=",
            "IOScheduling",
            "SuccessExitStatus=",
            "Type=",
        )
        service = unit(name).partition("[Service]")[2]
        return {line for line in service.splitlines() if "=" in line and not line.startswith(("#", *skip))}

    assert sandbox("appliance-update-rehearse.service") == sandbox("appliance-update.service")
    assert sandbox("appliance-update-broken.service") == sandbox("appliance-update.service")


def test_the_rehearsal_calls_the_lifeline_when_it_cannot_report_and_waits_for_nothing_the_gate_is_part_of() -> None:
    text = unit("appliance-update-rehearse.service")
    assert "OnFailure=appliance-update-broken.service" in text
    assert "StartLimitIntervalSec=0" in text
    assert "After=" not in text, "the gate waits for it; it must not wait for the gate"


def test_no_timer_rehearses_while_a_trial_still_starts() -> None:
    timer = unit("appliance-update-rehearse.timer")
    assert "OnBootSec=1h" in timer
    assert "Persistent=" not in timer
    assert "OnCalendar=" not in timer, "the wall clock may say 1970"
