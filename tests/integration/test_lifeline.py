"""Without Python, with a slot that no longer opens, with every slot given up: what is left brings the T640 back.

One ordered story: each step goes on where the one before ended. Times are patience, not measurements.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from t640 import disk, recovery, releases
from t640 import layout as layouts
from t640.artifacts import Artifacts
from t640.clinic.network import APPLIANCE_ADDRESS, TAP
from t640.clinic.site import Clinic
from t640.hardware import Hardware
from t640.image import build
from t640.lifeline import Lifeline
from t640.machine import Machine
from t640.processes import wait_for
from t640.session import Session, open_session
from tests.faults.marks import fault

pytestmark = [pytest.mark.vm, pytest.mark.story]

LONG = 900.0
FIRST, SECOND, _ = releases.versions()
BROKEN = "/var/lib/appliance-update/updater-broken"


@dataclass
class Story:
    """What the steps share."""

    clinic: Clinic
    lifeline: Lifeline
    machine: Machine

    def page(self) -> str:
        """The status page, as somebody in the clinic sees it."""
        return self.clinic.run(["curl", "-sS", "--max-time", "60", f"http://{APPLIANCE_ADDRESS}:8081/"])

    def blessed(self, version: str) -> None:
        """Wait until a version is good and the updater knows it."""
        self.machine.wait_until_succeeds(f"ls /boot/EFI/Linux/ /efi/EFI/Linux/ 2>&1 | grep -qx t640_{version}.efi", 600)
        known = f"grep 'good_version.*{version}' /var/lib/appliance-update/state.json"
        self.machine.wait_until_succeeds(known, 600)

    def wipe_superblock(self, version: str) -> None:
        """Overwrite the start of a version's slot, through the disk: dm-verity may hold the partition itself."""
        self.machine.succeed(
            f"set -e; part=$(readlink -f /dev/disk/by-partlabel/t640_{version}); "
            "part=$(readlink -f /sys/class/block/${part##*/}); start=$(cat $part/start); disk=$(basename ${part%/*}); "
            "dd if=/dev/zero of=/dev/$disk bs=512 seek=$start count=64 conv=fsync,notrunc; sync"
        )


@contextlib.contextmanager
def appliance(session: Session, base: Path, offered: Artifacts) -> Iterator[Story]:
    """A clinic with nobody in it, the lifeline's host, and an appliance that is switched off."""
    clinic = Clinic(session, ())
    lifeline = Lifeline(session, clinic.network.cloud)
    lifeline.publish(offered)
    machine = Machine(session.work / "appliance", base, Hardware(tap=TAP, tpm=False), clinic.network.clinic)
    try:
        yield Story(clinic, lifeline, machine)
    finally:
        machine.crash()


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    base = disk.assemble(build(releases.recipe(FIRST)), recovery.build())
    other = build(releases.recipe(SECOND))
    with open_session() as session, appliance(session, base, other) as made:
        yield made


def test_a_new_appliance_boots_its_slot_and_not_the_recovery(story: Story) -> None:
    story.machine.start()
    assert story.machine.wait_for_boot().version == FIRST
    story.blessed(FIRST)
    story.machine.succeed("systemctl start appliance-lifeline.service")
    listed = story.machine.succeed("appliance-slots")
    print(listed)
    assert "running" in listed
    assert "recovery" in listed
    assert "standing-by" in story.machine.succeed("appliance-lifeline status")


@fault(55)
def test_without_python_the_status_page_answers_and_the_lifeline_replaces_the_system(story: Story) -> None:
    machine = story.machine
    machine.succeed("mount --bind /bin/false $(readlink -f /usr/bin/python3)")
    machine.fail("python3 -c pass", "appliance-update status")
    page = story.page()
    print(page)
    assert f"t640 {FIRST}" in page
    assert "<script" not in page
    assert APPLIANCE_ADDRESS in page
    machine.succeed(f"echo 'Python does not start' >{BROKEN}", "systemctl start --no-block appliance-lifeline.service")
    assert machine.wait_for_boot(LONG).version == SECOND
    assert "t640_" in machine.succeed("ls /boot/EFI/Linux")
    story.blessed(SECOND)
    history = machine.succeed("cat /var/lib/appliance-update/history.jsonl")
    assert "lifeline_installed" in history
    assert "Python does not start" in history
    machine.succeed(f"rm -f {BROKEN}")


@pytest.mark.thorough
def test_a_blessed_slot_that_no_longer_opens_is_demoted_by_its_own_initrd(story: Story) -> None:
    machine = story.machine
    story.wipe_superblock(SECOND)
    machine.reset()
    assert machine.wait_for_boot(LONG).version == FIRST
    assert f"t640_{SECOND}+0-1.efi" in machine.succeed("ls /boot/EFI/Linux")
    machine.wait_until_succeeds("grep rolled_back /var/lib/appliance-update/history.jsonl", LONG)
    told = machine.succeed("grep rolled_back /var/lib/appliance-update/history.jsonl")
    assert SECOND in told
    assert "stopped booting after it had been good" in told


@fault(49)
def test_when_every_slot_is_spent_the_recovery_boots_by_itself_and_shows_itself(story: Story) -> None:
    machine = story.machine
    spent = f"for version in {FIRST} {SECOND}; do mv t640_$version*.efi t640_$version+0-3.efi; done"
    machine.succeed(f"cd /boot/EFI/Linux && {spent} && sync && ls")
    story.wipe_superblock(SECOND)  # a slot that is whole would have to wait for a lifeline file with a higher number
    machine.reset()
    machine.wait_for_boot(LONG)
    assert "t640-recovery" in machine.succeed("cat /etc/os-release")
    machine.fail("command -v python3")
    machine.fail("grep -E ' (ext4|erofs) ' /proc/self/mountinfo")
    machine.wait_until_succeeds("ip -4 address show scope global | grep -q inet", 300)
    assert "This is the recovery" in story.page()
    # What it has not looked at yet it does not say.
    spent_tries = "failed, its tries are spent"
    wait_for(lambda: spent_tries in story.page(), timeout=LONG, what="A page that knows the slots", every=5.0)


def test_the_recovery_gives_itself_its_tries_back(story: Story) -> None:
    name = layouts.load().esp["recovery_first"].replace("@v", recovery.version())
    story.machine.wait_until_succeeds(f"ls /run/appliance-lifeline/esp/EFI/Linux | grep -qxF '{name}'", 300)


@fault(49)
def test_the_recovery_installs_from_the_lifeline_and_the_new_system_proves_itself(story: Story) -> None:
    assert story.machine.wait_for_boot(LONG).version == SECOND
    story.blessed(SECOND)
    listed = story.machine.succeed("appliance-slots")
    print(listed)
    assert "recovery" in listed
