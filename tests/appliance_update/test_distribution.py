"""What the distribution ships beside its Python: units, the initrd's hook, and its independence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance_update.cli import main
from appliance_update.host import LOADER_GUID
from tests.appliance_update.conftest import V1, V2, World

HERE = Path(__file__).parents[2] / "agent" / "appliance-update"
UNITS = sorted((HERE / "systemd").glob("*.*"))
DEMOTE = HERE / "initrd" / "appliance-demote"
OTHERS = (
    "appliance_protocol", "compliance_agent", "network_scanner", "local_portal", "central_command", "appliance_release",
)  # fmt: skip


# -- independence -----------------------------------------------------------------------------------------------------


def test_the_updater_works_where_none_of_the_other_distributions_exists(tmp_path: Path) -> None:
    """All of its modules are imported, and the program run, with the others hidden."""
    script = f"""
import sys, importlib, pkgutil
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OTHERS!r}:
            raise ModuleNotFoundError(f"{{name}} does not exist on this machine")
sys.meta_path.insert(0, Hidden())
import appliance_update
for module in pkgutil.walk_packages(appliance_update.__path__, "appliance_update."):
    importlib.import_module(module.name)
from appliance_update.cli import main
main(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Exit codes" in done.stdout


def test_no_file_of_the_updater_names_a_module_of_the_others() -> None:
    for path in (HERE / "src").rglob("*.py"):
        for line in path.read_text().splitlines():
            if re.match(r"\s*(from|import)\s", line):
                assert not any(re.search(rf"\b{other}\b", line) for other in OTHERS), f"{path}: {line}"


# -- units ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def unit_root(tmp_path: Path) -> Path:
    """The units as installed, with the programs they name."""
    target = tmp_path / "usr/lib/systemd/system"
    shutil.copytree(HERE / "systemd", target)
    programs = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]["scripts"]
    for program in (*(f"usr/bin/{name}" for name in programs), "bin/sh"):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    for unit in Path("/usr/lib/systemd/system").glob("*.target"):
        if not (target / unit.name).exists():
            shutil.copy(unit, target / unit.name)
    return tmp_path


@pytest.mark.parametrize("unit", [path.name for path in UNITS if path.is_file()])
def test_systemd_finds_nothing_wrong_with_a_unit(unit_root: Path, unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={unit_root}", "--man=no", "--recursive-errors=no", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if any(path.name in line for path in UNITS)]
    assert ours == []


def test_the_gate_stands_between_multi_user_and_the_blessing() -> None:
    gate = (HERE / "systemd/boot-health.service").read_text()
    for line in (
        "After=multi-user.target", "Before=boot-complete.target", "RequiredBy=boot-complete.target",
        "OnFailure=boot-health-reboot.service", f"LoaderBootCountPath-{LOADER_GUID}",
    ):  # fmt: skip
        assert line in gate
    assert "FailureAction=reboot-force" in (HERE / "systemd/boot-health-reboot.service").read_text()
    target = (HERE / "systemd/boot-complete.target.d/10-appliance.conf").read_text()
    assert "JobTimeoutAction=reboot-force" in target


def test_the_gates_deadline_ends_before_systemd_loses_patience() -> None:
    from appliance_update.config import load

    config, _ = load(HERE / "etc/config.toml")
    patience = re.search(r"TimeoutStartSec=(\d+)min", (HERE / "systemd/boot-health.service").read_text())
    assert patience
    assert config.gate.deadline + 120 <= int(patience[1]) * 60


def test_the_updater_polls_by_itself_whatever_becomes_of_the_agent() -> None:
    timer = (HERE / "systemd/appliance-update.timer").read_text()
    assert "WantedBy=timers.target" in timer
    everything = "".join(path.read_text() for path in UNITS if path.is_file())
    for other in ("compliance-agent.service", "network-scanner.service", "local-portal.service"):
        assert f"={other}" not in everything


# -- the initrd's hook ------------------------------------------------------------------------------------------------


@pytest.fixture
def initrd(tmp_path: Path) -> Path:
    (tmp_path / "efivars").mkdir()
    (tmp_path / "esp/EFI/Linux").mkdir(parents=True)
    return tmp_path


def demote(initrd: Path, selected: str | None, ukis: list[str], counted: str = "") -> list[str]:
    """Run the hook as the initrd would; the UKIs afterwards."""
    for name, text in {"LoaderEntrySelected": selected, "LoaderBootCountPath": counted or None}.items():
        if text is not None:
            raw = b"\6\0\0\0" + (text + "\0").encode("utf-16-le")
            (initrd / "efivars" / f"{name}-{LOADER_GUID}").write_bytes(raw)
    for name in ukis:
        (initrd / "esp/EFI/Linux" / name).write_bytes(b"MZ")
    environment = os.environ | {"APPLIANCE_EFIVARS": str(initrd / "efivars"), "APPLIANCE_ESP": str(initrd / "esp")}
    subprocess.run(["sh", DEMOTE], env=environment, check=True, capture_output=True)
    return sorted(path.name for path in (initrd / "esp/EFI/Linux").iterdir())


def test_a_blessed_slot_that_does_not_open_hands_over_to_the_other(initrd: Path) -> None:
    after = demote(initrd, "t640_2.efi", ["t640_1.efi", "t640_2.efi"])
    assert after == ["t640_1.efi", "t640_2+0-1.efi"]


def test_a_counted_boot_is_left_to_the_loader(initrd: Path) -> None:
    ukis = ["t640_1.efi", "t640_2+2-1.efi"]
    assert demote(initrd, "t640_2.efi", ukis, "\\EFI\\Linux\\t640_2+2-1.efi") == ukis


def test_the_last_entry_is_never_demoted(initrd: Path) -> None:
    assert demote(initrd, "t640_2.efi", ["t640_2.efi"]) == ["t640_2.efi"]


def test_a_spent_entry_is_nothing_to_hand_over_to(initrd: Path) -> None:
    ukis = ["t640_1+0-3.efi", "t640_2.efi"]
    assert demote(initrd, "t640_2.efi", ukis) == ukis


@pytest.mark.parametrize("selected", [None, "", "../../t640_2.efi", "t640_9.efi", "nixos.conf"])
def test_what_cannot_be_told_changes_nothing(initrd: Path, selected: str | None) -> None:
    ukis = ["t640_1.efi", "t640_2.efi"]
    assert demote(initrd, selected, ukis) == ukis


# -- the command line -------------------------------------------------------------------------------------------------


def configured(world: World) -> list[str]:
    paths = world.config.paths
    path = world.directory / "config.toml"
    path.write_text(
        f'repository = "{world.config.repository}"\n[paths]\nlayout = "{paths.layout}"\n'
        f'trusted_root = "{paths.trusted_root}"\nstate = "{paths.state}"\nruntime = "{paths.runtime}"\n'
    )
    return ["--config", str(path)]


@pytest.fixture
def program(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The real command line on the simulated device."""
    from appliance_update import cli, machine

    def assemble(config: object) -> object:
        return machine.assemble(  # type: ignore[call-overload]
            config, host=world.device.host, writer=world.writer, reboot=world.rebooted.append
        )

    monkeypatch.setattr(cli, "assemble", assemble)
    return configured(world)


def test_the_steps_can_be_taken_one_by_one(world: World, program: list[str]) -> None:
    world.publish(V2)
    run = CliRunner()
    assert f"{V2} is available" in run.invoke(main, [*program, "check"]).output
    assert f"{V2} is fetched and verified" in run.invoke(main, [*program, "fetch"]).output
    assert world.device.writes == 0
    assert f"{V2} is installed" in run.invoke(main, [*program, "apply"]).output
    assert world.rebooted == []
    assert "armed" in run.invoke(main, [*program, "status"]).output
    assert "installed" in run.invoke(main, [*program, "history"]).output
    assert '"state": "armed"' in run.invoke(main, [*program, "status", "--json"]).output


def test_a_version_marked_bad_is_disarmed_and_stays_away(world: World, program: list[str]) -> None:
    world.publish(V2)
    run = CliRunner()
    run.invoke(main, [*program, "run"])
    assert world.device.ukis() == [f"t640_{V1}.efi", f"t640_{V2}+3-0.efi"]
    done = run.invoke(main, [*program, "mark-bad", V2, "--reason", "the clinic's printer"])
    assert done.exit_code == 0
    assert world.device.ukis() == [f"t640_{V1}.efi"]
    assert "printer" in run.invoke(main, [*program, "check"]).output


def test_the_running_version_cannot_be_marked_bad(program: list[str]) -> None:
    assert CliRunner().invoke(main, [*program, "mark-bad", V1]).exit_code == 5


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "4", "5", "6", "7"])
def test_every_exit_code_is_documented(code: str) -> None:
    assert re.search(rf"(?m)^\s+{code}  ", CliRunner().invoke(main, ["--help"]).output)


def test_errors_have_their_exit_code(world: World, program: list[str]) -> None:
    run = CliRunner()
    assert run.invoke(main, [*program, "apply"]).exit_code == 5
    world.server.close()
    assert run.invoke(main, [*program, "check"]).exit_code == 3
    (world.device.root / "proc/cmdline").write_text("quiet\n")
    assert run.invoke(main, [*program, "check"]).exit_code == 6
    assert run.invoke(main, [*program, "run"]).exit_code == 6
    (world.directory / "config.toml").write_text("repository = 1")
    assert run.invoke(main, [*program, "check"]).exit_code == 2


def test_two_updaters_do_not_work_at_once(world: World, program: list[str]) -> None:
    with world.updater().store.locked():
        assert CliRunner().invoke(main, [*program, "run"]).exit_code == 7
    assert CliRunner().invoke(main, [*program, "run"]).exit_code == 0
