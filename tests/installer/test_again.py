"""Installing where something was before: another appliance, or half of an installation that lost its power."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installer.conftest import (
    ESP_MIB,
    ESP_START,
    INSTALLER,
    MIB,
    Medium,
    install,
    needs_loop_devices,
    pretend,
    run,
    sourced,
)
from tests.installer.test_installing import boots, carries_the_image, on_esp

pytestmark = [needs_loop_devices, pytest.mark.exhaustive]

DEVICE = "dev-0123456789"
STATE_START = 80 * MIB
LOADER_PATH = "EFI/systemd/systemd-bootx64.efi"
KEY = b"THE-DEVICE-KEY"


@pytest.fixture
def lived_in(tmp_path: Path) -> Iterator[str]:
    """A disk of an appliance that is enrolled: its state has keys in it."""
    state = tmp_path / "state"
    folder = tmp_path / "var/lib/compliance-agent"
    folder.mkdir(parents=True)
    facts = {"device_id": DEVICE, "site_id": "s1", "site_name": "Harbour Street Clinic"}
    (folder / "enrolment.json").write_text(json.dumps(facts, separators=(",", ":")))
    (folder / "device.key").write_text("THE-DEVICE-KEY " * 400)
    run("mkfs.ext4", "-q", "-L", "state", "-d", str(tmp_path / "var"), str(state), "64M")
    disk = tmp_path / "lived-in"
    with disk.open("wb") as file:
        file.truncate(160 * MIB)
    table = (
        f"label: gpt\nstart={ESP_START // 512}, size={ESP_MIB}MiB, type=uefi, name=ESP\n"
        f"start={STATE_START // 512}, size=64MiB, name=state\n"
    )
    run("sfdisk", "--quiet", str(disk), text=table)
    run("mkfs.vfat", "-F", "32", "-s", "1", "--offset", str(ESP_START // 512), str(disk), str(ESP_MIB * 1024))
    (tmp_path / "old-loader").write_bytes(b"MZ the old loader")
    run("mmd", "-i", f"{disk}@@{ESP_START}", "::EFI", "::EFI/systemd")
    run("mcopy", "-i", f"{disk}@@{ESP_START}", str(tmp_path / "old-loader"), f"::{LOADER_PATH}")
    with disk.open("r+b") as file:
        file.seek(STATE_START)
        file.write(state.read_bytes())
    name = run("losetup", "--find", "--show", "--partscan", str(disk)).strip()
    yield name
    run("losetup", "--detach", name)


def test_the_appliance_that_will_be_lost_is_named(medium: Medium, lived_in: str) -> None:
    done = install(medium, lived_in, answer="no\n")
    assert done.returncode == 3
    assert f"site 'Harbour Street Clinic', device {DEVICE}" in done.stderr


def test_nothing_of_the_previous_identity_is_left(medium: Medium, lived_in: str) -> None:
    done = install(medium, lived_in, "--yes")
    assert done.returncode == 0, done.stderr
    content = Path(lived_in).read_bytes()
    assert b"THE-DEVICE-KEY" not in content
    assert DEVICE.encode() not in content
    assert carries_the_image(lived_in, medium.image)


NO_DISCARD = 'case "$*" in *--zeroout*) exec /usr/sbin/blkdiscard "$@" ;; esac'


@pytest.mark.parametrize("table", ["whole", "damaged"])
def test_nothing_is_left_where_discarding_is_a_mere_hint(
    lived_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    # A key far behind the file system's beginning counts as well.
    with Path(lived_in).open("r+b") as disk:
        disk.seek(STATE_START + 63 * MIB + 100_000)
        disk.write(KEY)
        if table == "damaged":
            for place, whence in ((512 + 16, 0), (-512 + 16, 2)):
                disk.seek(place, whence)
                disk.write(b"rot!")
    pretend(tmp_path, monkeypatch, "blkdiscard", NO_DISCARD)
    sourced(Path("/sys"), 'erase "$1"', lived_in)
    assert KEY not in Path(lived_in).read_bytes()


@pytest.mark.parametrize(("flag", "goes"), [("install\n", "no"), ("replace-appliance\n", "yes")])
def test_a_medium_that_was_left_in_does_not_erase_the_appliance_by_itself(
    tmp_path: Path, lived_in: str, flag: str, goes: str
) -> None:
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "unattended").write_text(flag)
    everywhere = tmp_path / "machines"
    everywhere.write_text("*|*\n")
    script = 'may_go_unattended "$@" && echo yes || echo no'
    assert sourced(Path("/sys"), script, str(seed), str(everywhere), lived_in)[0] == [goes]


@pytest.mark.parametrize("status", [1, 124])
def test_a_table_that_cannot_be_read_is_not_taken_for_an_empty_disk(
    tmp_path: Path, lived_in: str, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "unattended").write_text("install\n")
    (tmp_path / "machines").write_text("*|*\n")
    pretend(tmp_path, monkeypatch, "sfdisk", f"exit {status}")
    script = 'may_go_unattended "$@" && echo yes || echo no'
    words, said = sourced(Path("/sys"), script, str(seed), str(tmp_path / "machines"), lived_in)
    assert words == ["no"]
    assert "cannot be read" in said


def test_an_appliance_that_was_never_started_counts_as_well(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(32 * MIB)
    table = "label: gpt\nsize=4MiB, name=ESP\nsize=4MiB, name=t640-verity_2026.11.0\nsize=4MiB, name=t640_2026.11.0\n"
    run("sfdisk", "--quiet", str(disk), text=table)
    words, _ = sourced(Path("/sys"), 'previous_appliance "$1"', str(disk))
    assert "has not been started yet" in " ".join(words)


# -- a power cut -------------------------------------------------------------------------------------------------------

CUT = """#!/bin/bash
# Counts the programs the installer starts, and pulls the plug before one of them.
count=$(($(cat "$CUT_COUNT" 2>/dev/null || echo 0) + 1))
echo "$count" >"$CUT_COUNT"
if [ "$count" = "$CUT_AT" ]; then kill -KILL -"$CUT_GROUP" 2>/dev/null; kill -KILL 0; fi
exec /usr/bin/timeout "$@"
"""


def cut(medium: Medium, disk: str, scratch: Path, at: int) -> int:
    """Run the installer and kill all of it before its `at`th program; returns how many were started."""
    programs = scratch / "bin"
    if not programs.exists():
        programs.mkdir()
        (programs / "timeout").write_text(CUT)
        (programs / "timeout").chmod(0o755)
    count = scratch / "count"
    count.unlink(missing_ok=True)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}", "CUT_AT": str(at), "CUT_COUNT": str(count), "CUT_GROUP": "0",
        "TMPDIR": str(scratch),
    }  # fmt: skip
    command = ["bash", str(INSTALLER), "--images", str(medium.folder), "--disk", disk, "--stay-on", "--yes"]
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False, start_new_session=True
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return int(count.read_text())


def good(disk: str, medium: Medium) -> bool:
    """Everything an installed disk must have."""
    loader = on_esp(disk, "EFI/BOOT/BOOTX64.EFI") == on_esp(disk, "EFI/systemd/systemd-bootx64.efi")
    seeded = on_esp(disk, "appliance-seed/enrolment.toml") == b"code\n"
    return loader and seeded and carries_the_image(disk, medium.image)


def test_whenever_the_power_goes_the_disk_is_good_or_does_not_boot_and_a_second_run_makes_it_good(
    medium: Medium, lived_in: str, tmp_path: Path
) -> None:
    medium.seed(enrolment_toml="code\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = Path(lived_in).read_bytes()
    steps = cut(medium, lived_in, scratch, 0)
    assert steps > 40
    outcomes = set()
    restore(lived_in, before)
    # Every other step from the last piece of the image on, and some of those before.
    for at in [*range(1, steps - 24, 12), *range(steps - 24, steps + 1, 2)]:
        cut(medium, lived_in, scratch, at)
        outcome = starts(lived_in)
        outcomes.add(outcome)
        untouched = outcome and Path(lived_in).read_bytes() == before
        assert not outcome or untouched or good(lived_in, medium), f"cut before step {at} of {steps}"
        if outcome and not untouched:
            # Begin again with a disk that does not boot.
            run("wipefs", "--all", "--force", "--quiet", lived_in)
    assert outcomes == {True, False}
    assert install(medium, lived_in, "--yes").returncode == 0
    assert good(lived_in, medium)


def test_wherever_the_erasing_is_cut_short_nothing_starts_and_the_next_one_leaves_no_key(
    lived_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only `erase` runs here: nothing before it writes, and what comes after it does not know of the old state."""
    before = Path(lived_in).read_bytes()
    pretend(tmp_path, monkeypatch, "blkdiscard", NO_DISCARD)
    pretend(tmp_path, monkeypatch, "timeout", CUT.removeprefix("#!/bin/bash\n"))
    steps = cut_erasing(lived_in, tmp_path, 0)
    assert steps > 10
    for at in range(1, steps + 1):
        restore(lived_in, before)
        cut_erasing(lived_in, tmp_path, at)
        assert not starts(lived_in) or Path(lived_in).read_bytes() == before, f"cut before step {at} of {steps}"
        cut_erasing(lived_in, tmp_path, 0)
        assert KEY not in Path(lived_in).read_bytes(), f"cut before step {at} of {steps}"


def cut_erasing(disk: str, scratch: Path, at: int) -> int:
    count = scratch / "count"
    count.unlink(missing_ok=True)
    environment = os.environ | {"CUT_AT": str(at), "CUT_COUNT": str(count), "CUT_GROUP": "0"}
    command = ["bash", "-c", 'source "$1"; erase "$2"', "bash", str(INSTALLER), disk]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, start_new_session=True)
    assert done.returncode == (-signal.SIGKILL if at else 0), done.stderr.decode()
    return int(count.read_text())


def starts(disk: str) -> bool:
    """Whether firmware would find a loader: in a boot partition that the table names."""
    command = ["mcopy", "-n", "-i", f"{disk}@@{ESP_START}", f"::{LOADER_PATH}", "-"]
    return boots(disk) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def restore(disk: str, content: bytes) -> None:
    with Path(disk).open("r+b") as file:
        for at in range(0, len(content), MIB):
            file.seek(at)
            if file.read(MIB) != content[at : at + MIB]:
                file.seek(at)
                file.write(content[at : at + MIB])
