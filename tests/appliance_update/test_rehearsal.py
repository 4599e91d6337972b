"""The rehearsal: a system that cannot update itself never becomes good, and says so when it has ceased to be."""

from __future__ import annotations

import configparser
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance_release import canary
from appliance_update import history, rehearsal_report
from appliance_update.cli import main
from appliance_update.config import Config, Gate
from appliance_update.install import Sysupdate
from appliance_update.layout import compiled
from appliance_update.rehearsal import Rehearsal
from appliance_update.rehearsal_report import Report, conclude
from t640.paths import cache_directory
from tests.appliance_update.conftest import V1, World
from tests.appliance_update.simulator import LAYOUT


class ScratchSysupdate:
    """Carries out the transfers into directories as systemd-sysupdate does, reading the very definitions."""

    def apply(self, definitions: Path, version: str) -> None:
        for path in sorted(definitions.iterdir()):
            parser = configparser.ConfigParser(interpolation=None)
            parser.optionxform = str  # type: ignore[assignment,method-assign]
            parser.read_string(path.read_text())
            source, target = parser["Source"], parser["Target"]
            assert target["Type"] == "regular-file"
            assert "/rehearsal/target" in target["Path"], "a rehearsal writes nothing real"
            pattern = compiled(source["MatchPattern"])
            for file in Path(source["Path"]).iterdir():
                match = pattern.fullmatch(file.name)
                if match and match["version"] == version:
                    self.copy(file, Path(target["Path"]) / self.name(target, match.groupdict()))

    def copy(self, source: Path, target: Path) -> None:
        shutil.copyfile(source, target)

    def name(self, target: configparser.SectionProxy, found: dict[str, str]) -> str:
        values = {"@v": found["version"], "@u": found.get("uuid", "")}
        values |= {"@l": target.get("TriesLeft", ""), "@d": target.get("TriesDone", "")}
        name = target["MatchPattern"].split()[0]
        for wildcard, value in values.items():
            name = name.replace(wildcard, value)
        return name


@pytest.fixture(scope="session")
def canary_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("canary")
    canary.make(directory, LAYOUT)
    return directory


@pytest.fixture
def config(world: World, canary_directory: Path) -> Config:
    return replace(world.config, paths=replace(world.config.paths, canary=str(canary_directory)))


def walk(world: World, config: Config, **changes: object) -> Report:
    parts = {"writer": ScratchSysupdate(), **changes}
    return Rehearsal(config, world.device.host, **parts).run()  # type: ignore[arg-type]


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, but the state that a rehearsal may touch."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            found[str(path)] = path.read_bytes()
    return found


# -- the updater's own part -------------------------------------------------------------------------------------------


def test_a_sound_system_walks_the_canary_through_every_stage(world: World, config: Config) -> None:
    report = walk(world, config)
    assert report.passed, report.reason
    names = [stage.name for stage in report.stages]
    assert names == [
        "configuration", "slots", "serve", "metadata", "refuse what was tampered with", "fetch", "verify", "pairing",
        "write", "read back",
    ]  # fmt: skip
    assert (report.version, report.boot_id) == (V1, world.device.host.boot_id())


def test_it_changes_nothing_of_the_device_and_leaves_nothing_behind(world: World, config: Config) -> None:
    before = snapshot(world.device.root)
    assert walk(world, config).passed
    assert snapshot(world.device.root) == before
    assert not (world.device.state / "rehearsal").exists()


def test_an_update_that_waits_is_not_disturbed(world: World, config: Config) -> None:
    world.publish("2026.11.2")
    updater = world.updater()
    with updater.store.locked():
        from appliance_update.settle import settle

        settle(updater.store, updater.host, updater.layout)
        updater.fetch()
        assert walk(world, config).passed
    assert updater.store.record.candidate is not None
    assert world.updater().run()[0].value == "rebooting"


def test_what_an_interrupted_rehearsal_left_is_cleared_away(world: World, config: Config) -> None:
    left = world.device.state / "rehearsal/state/staging"
    left.mkdir(parents=True)
    (left / "t640_9999.12.1.efi").write_bytes(b"half")
    assert walk(world, config).passed


def test_a_clock_at_1970_rehearses_all_the_same(world: World, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 100.0)
    report = walk(world, config)
    assert report.passed, report.reason


def test_the_sites_proxy_is_not_asked_for_loopback(
    world: World, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert walk(world, config).passed


def test_an_image_without_a_canary_cannot_rehearse_and_unknown_is_never_success(world: World, config: Config) -> None:
    report = walk(world, replace(config, paths=replace(config.paths, canary="/nowhere")))
    assert (report.passed, report.fault) == (False, rehearsal_report.UPDATER)
    assert "canary release is missing" in report.reason


def test_a_system_without_the_root_of_its_repository_cannot_update_itself(world: World, config: Config) -> None:
    report = walk(world, replace(config, paths=replace(config.paths, trusted_root="/nowhere")))
    assert not report.passed
    assert "/nowhere" in report.reason


def test_an_updater_that_does_not_choose_the_canary_fails(
    world: World, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blind updater of the pilot's kind: a field it does not know is the end of it."""
    from appliance_update import release

    def strict(custom: object, *rest: object) -> object:
        raise release.Unsuitable("unknown field 'x-from-the-future'")

    monkeypatch.setattr("appliance_update.repository.admit", strict)
    report = walk(world, config)
    assert not report.passed
    assert report.reason.startswith("metadata: ")


def test_an_updater_that_verifies_nothing_fails(world: World, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance_update.transfer.Transfer.verify", lambda *_arguments: None)
    report = walk(world, config)
    assert "not what was signed was taken for good" in report.reason


def test_a_missing_sysupdate_fails(world: World, config: Config) -> None:
    report = walk(world, config, writer=Sysupdate("/nowhere/systemd-sysupdate"))
    assert "/nowhere/systemd-sysupdate is missing" in report.reason
    assert report.fault == rehearsal_report.UPDATER


def test_a_writer_that_writes_something_else_is_found_out(world: World, config: Config) -> None:
    class Wrong(ScratchSysupdate):
        def copy(self, source: Path, target: Path) -> None:
            target.write_bytes(source.read_bytes()[:-1] + b"?")

    assert "reads back differently" in walk(world, config, writer=Wrong()).reason


def test_a_writer_that_writes_nothing_is_found_out(world: World, config: Config) -> None:
    class Idle(ScratchSysupdate):
        def apply(self, definitions: Path, version: str) -> None:
            pass

    assert "was not written; there is EFI" in walk(world, config, writer=Idle()).reason


def test_slots_that_cannot_be_told_fail(world: World, config: Config) -> None:
    (world.device.root / "proc/cmdline").write_text("quiet\n")
    report = walk(world, config)
    assert report.reason.startswith("slots: The kernel was started without a root hash")


def test_a_host_that_keeps_generations_rehearses_without_slots(world: World, config: Config) -> None:
    (world.device.root / "proc/cmdline").write_text("quiet\n")
    report = walk(world, replace(config, gate=Gate(slots=False)))
    assert report.passed, report.reason
    assert [stage.name for stage in report.stages][-1] == "verify"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_is_full_or_failing_is_not_the_updaters_fault(world: World, config: Config, code: int) -> None:
    class Full(ScratchSysupdate):
        def copy(self, source: Path, target: Path) -> None:
            raise OSError(code, os.strerror(code))

    report = walk(world, config, writer=Full())
    assert (report.passed, report.fault) == (False, rehearsal_report.SURROUNDINGS)


def test_a_fault_nobody_thought_of_is_a_failure_with_its_name(
    world: World, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise AttributeError("mcp_api_key_file")

    monkeypatch.setattr("appliance_update.updater.Updater.check", broken)
    report = walk(world, config)
    assert report.reason == "metadata: AttributeError: mcp_api_key_file"


# -- the real systemd-sysupdate ---------------------------------------------------------------------------------------


@pytest.fixture
def real_sysupdate(tmp_path: Path) -> Path:
    """systemd 257's, out of the rig's tool root, with this machine's directory at the same place inside."""
    roots = [path for path in cache_directory().glob("toolroot-*") if (path / "usr/bin/mkosi").exists()]
    if not roots or os.geteuid():
        pytest.skip("the rig's tool root is not built (any test of the virtual machine builds it), or no root")
    program = tmp_path / "systemd-sysupdate"
    program.write_text(
        "#!/bin/sh\nset -e\n"
        f"exec unshare --mount --propagation private sh -c '\n"
        f"root={roots[0]}\nmount -t tmpfs tmpfs $root/tmp\nmount -t proc proc $root/proc\n"
        f"mkdir -p $root/tmp/share\nmount -t tmpfs tmpfs $root/run\n"
        'mount --bind "$SHARED" $root/tmp/share\nmount -t tmpfs tmpfs $root/dev\n'
        "touch $root/dev/null && mount --bind /dev/null $root/dev/null\n"
        "echo IMAGE_VERSION=2026.11.1 >$root/tmp/os-release\n"
        "cat $root/usr/lib/os-release >>$root/tmp/os-release\n"
        "mount --bind $root/tmp/os-release $root/usr/lib/os-release\n"
        'exec chroot $root /usr/lib/systemd/systemd-sysupdate "$@"\' sh "$@"\n'
    )
    program.chmod(0o755)
    return program


def test_the_real_systemd_sysupdate_carries_it_out(
    world: World, config: Config, real_sysupdate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED", str(world.directory))

    class Inside(Sysupdate):
        """The same, with the definitions' paths as they are called inside the tool root."""

        def apply(self, definitions: Path, version: str) -> None:
            for path in definitions.iterdir():
                path.write_text(path.read_text().replace(str(world.directory), "/tmp/share"))
            super().apply(Path("/tmp/share") / definitions.relative_to(world.directory), version)

    report = walk(world, config, writer=Inside(str(real_sysupdate)))
    assert report.passed, report.reason


# -- units ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`systemctl` and `journalctl` that run what the test puts into a directory of "units"."""
    directory, programs = tmp_path / "units", tmp_path / "bin"
    directory.mkdir()
    programs.mkdir()
    scripts = {
        "systemctl": f"""
            case "$1" in
                start) exec sh "{directory}/$3" >"{directory}/journal" 2>&1 ;;
                show) printf 'Id=%s\\nResult=exit-code\\nInvocationID=abc\\n' "$4" ;;
            esac""",
        "journalctl": f'cat "{directory}/journal"',
    }
    for name, text in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    yield directory


def with_unit(config: Config) -> Config:
    return replace(config, gate=Gate(rehearsal_units=("agent-rehearse.service",)))


def test_the_configured_units_rehearse_after_the_updater(world: World, config: Config, units: Path) -> None:
    (units / "agent-rehearse.service").write_text(f"touch {units}/ran\n")
    report = walk(world, with_unit(config))
    assert report.passed, report.reason
    assert report.stages[-1].name == "agent-rehearse.service"
    assert (units / "ran").exists()


def test_a_unit_that_fails_fails_the_rehearsal_with_its_last_words(world: World, config: Config, units: Path) -> None:
    (units / "agent-rehearse.service").write_text('echo "AttributeError: mcp_api_key_file"; exit 1\n')
    report = walk(world, with_unit(config))
    assert (report.passed, report.fault) == (False, rehearsal_report.UNIT)
    assert report.reason == "agent-rehearse.service: AttributeError: mcp_api_key_file"


# -- consequences -----------------------------------------------------------------------------------------------------


def report_of(world: World, *, passed: bool, fault: str = "") -> Report:
    return Report(passed, V1, world.device.host.boot_id(), 1.0, 2.0, reason="" if passed else "it broke", fault=fault)


def events(world: World) -> list[str]:
    return [entry.event for entry in history.read(world.device.state / "history.jsonl")[0]]


def test_success_is_contact_and_ends_the_call_for_the_lifeline(world: World, config: Config) -> None:
    broken, contact = world.device.state / "updater-broken", world.device.state / "last-contact"
    world.device.state.mkdir(parents=True, exist_ok=True)
    broken.write_text("it was broken\n")
    contact.touch()
    os.utime(contact, (1.0, 1.0))
    conclude(config, report_of(world, passed=True))
    assert not broken.exists()
    assert contact.stat().st_mtime > 1e9


def test_a_committed_system_whose_updater_is_broken_calls_the_lifeline(world: World, config: Config) -> None:
    conclude(config, report_of(world, passed=False, fault=rehearsal_report.UPDATER))
    assert "it broke" in (world.device.state / "updater-broken").read_text()
    assert events(world) == ["rehearsal_failed"]
    assert not (world.device.state / "last-contact").exists()


@pytest.mark.parametrize("fault", [rehearsal_report.UNIT, rehearsal_report.SURROUNDINGS])
def test_a_full_disk_or_a_broken_agent_does_not_call_the_lifeline_but_is_in_the_history(
    world: World, config: Config, fault: str
) -> None:
    conclude(config, report_of(world, passed=False, fault=fault))
    assert not (world.device.state / "updater-broken").exists()
    assert events(world) == ["rehearsal_failed"]


def test_on_trial_the_gate_draws_the_consequences_and_the_good_systems_lifeline_sleeps(
    world: World, config: Config
) -> None:
    world.device.runtime.mkdir(parents=True, exist_ok=True)
    (world.device.runtime / "trial").touch()
    conclude(config, report_of(world, passed=False, fault=rehearsal_report.UPDATER))
    assert not (world.device.state / "updater-broken").exists()
    assert events(world) == []
    assert rehearsal_report.of_this_boot(config, world.device.host) is not None


def test_a_report_of_another_boot_or_version_is_none(world: World, config: Config) -> None:
    conclude(config, report_of(world, passed=True))
    assert rehearsal_report.of_this_boot(config, world.device.host) is not None
    (world.device.root / "proc/sys/kernel/random/boot_id").write_text("another\n")
    assert rehearsal_report.of_this_boot(config, world.device.host) is None


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_ends_with_8_and_says_why(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        f'[gate]\nslots = false\n[paths]\nstate = "{tmp_path}/state"\nruntime = "{tmp_path}/run"\n'
        f'layout = "{LAYOUT}"\ncanary = "{tmp_path}/nowhere"\n'
    )
    done = CliRunner().invoke(main, ["--config", str(file), "rehearse", "--json"])
    assert done.exit_code == 8, done.output
    said = json.loads(done.stdout)
    assert (said["passed"], said["fault"]) == (False, "updater")
    assert json.loads((tmp_path / "run/rehearsal.json").read_text()) == said


def test_the_command_ends_with_0_where_all_is_well(tmp_path: Path, canary_directory: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        f'[gate]\nslots = false\n[paths]\nstate = "{tmp_path}/state"\nruntime = "{tmp_path}/run"\n'
        f'layout = "{LAYOUT}"\ncanary = "{canary_directory}"\n'
    )
    done = CliRunner().invoke(main, ["--config", str(file), "rehearse"])
    assert done.exit_code == 0, done.output
    assert "can update itself" in done.output
    assert (tmp_path / "state/last-contact").exists()


# -- the canary -------------------------------------------------------------------------------------------------------


def test_the_canary_is_the_same_wherever_and_whenever_it_is_made(canary_directory: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("appliance-release")
    subprocess.run([str(program), "canary", str(tmp_path / "again"), "--layout", str(LAYOUT)], check=True)

    def content(directory: Path) -> dict[str, bytes]:
        return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    assert content(tmp_path / "again") == content(canary_directory)


def test_the_canary_is_small_and_readable_by_everybody(canary_directory: Path) -> None:
    files = [path for path in canary_directory.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000
    assert all(path.stat().st_mode & stat.S_IRUSR for path in files)


def test_the_canary_has_a_rotated_root_and_things_nobody_knows(canary_directory: Path) -> None:
    assert (canary_directory / "metadata/2.root.json").exists()
    targets = json.loads((canary_directory / "metadata/1.targets.json").read_text())["signed"]
    assert "x-from-the-future" in targets
    releases = [target["custom"]["appliance_release"] for target in targets["targets"].values()
                if "appliance_release" in target.get("custom", {})]  # fmt: skip
    assert any("x-from-the-future" in release for release in releases if release)
    assert any(release and release.get("min_reader") == 99 for release in releases)
