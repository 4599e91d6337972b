"""Installing where something was before: another appliance, or half of an installation that lost its power."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installer.conftest import INSTALLER, MIB, Medium, install, needs_loop_devices, run, sourced
from tests.installer.test_installing import boots, carries_the_image, on_esp

pytestmark = [needs_loop_devices, pytest.mark.exhaustive]

DEVICE = "dev-0123456789"
STATE_START = 80 * MIB


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
    run("sfdisk", "--quiet", str(disk), text=f"label: gpt\nstart={STATE_START // 512}, size=64MiB, name=state\n")
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


def test_nothing_is_left_where_discarding_is_a_mere_hint(medium: Medium, lived_in: str, tmp_path: Path) -> None:
    pretend = tmp_path / "bin"
    pretend.mkdir()
    (pretend / "blkdiscard").write_text(
        '#!/bin/sh\ncase "$*" in *--zeroout*) exec /usr/sbin/blkdiscard "$@" ;; esac\nexit 0\n'
    )
    (pretend / "blkdiscard").chmod(0o755)
    command = ["bash", str(INSTALLER), "--images", str(medium.folder), "--disk", lived_in, "--stay-on", "--yes"]
    path = f"{pretend}:{os.environ['PATH']}"
    done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"THE-DEVICE-KEY" not in Path(lived_in).read_bytes()


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
    steps = cut(medium, lived_in, scratch, 0)
    assert steps > 40
    outcomes = set()
    # Every other step from the last piece of the image on, and some of those before.
    for at in [*range(1, steps - 24, 12), *range(steps - 24, steps + 1, 2)]:
        cut(medium, lived_in, scratch, at)
        outcome = boots(lived_in)
        outcomes.add(outcome)
        assert not outcome or at < 20 or good(lived_in, medium), f"cut before step {at} of {steps}"
        if outcome and at >= 20:
            # Begin again with a disk that does not boot.
            run("wipefs", "--all", "--force", "--quiet", lived_in)
    assert outcomes == {True, False}
    assert install(medium, lived_in, "--yes").returncode == 0
    assert good(lived_in, medium)
