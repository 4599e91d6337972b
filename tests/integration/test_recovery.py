"""Both slots given up: the recovery boots by itself, shows itself, and brings a system back. No Python, no state."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from t640 import disk, recovery, releases
from t640 import layout as layouts
from t640.image import build
from t640.session import open_session
from tests.faults.marks import fault
from tests.integration.test_lifeline import FIRST, LONG, SECOND, Story, appliance

pytestmark = [pytest.mark.vm, pytest.mark.thorough]


def given_up(base: Path, target: Path) -> Path:
    """A copy of a new disk whose only slot has spent its tries."""
    subprocess.run(["cp", "--sparse=always", str(base), str(target)], check=True)
    esp = layouts.load().esp
    table = subprocess.run(["sfdisk", "--dump", str(target)], check=True, capture_output=True, text=True).stdout
    start = next(line for line in table.splitlines() if 'name="ESP"' in line).partition("start=")[2].split(",")[0]
    directory = esp["uki_directory"]
    name = esp["uki_first"].replace("@v", FIRST)
    paths = [f"::{directory}/{each}" for each in (name, name.replace("+3", "+0-3"))]
    subprocess.run(["mren", "-i", f"{target}@@{int(start) * 512}", *paths], check=True)
    return target


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    base = disk.assemble(build(releases.recipe(FIRST)), recovery.build())
    other = build(releases.recipe(SECOND))
    with open_session() as session:
        spent = given_up(base, session.work / "given-up.raw")
        with appliance(session, spent, other) as made:
            yield made


def test_the_recovery_boots_when_every_slot_is_spent_and_shows_itself(story: Story) -> None:
    machine = story.machine
    machine.start()
    machine.wait_for_boot(LONG)
    assert "t640-recovery" in machine.succeed("cat /etc/os-release")
    machine.fail("command -v python3")
    machine.fail("grep -E ' (ext4|erofs) ' /proc/self/mountinfo")
    machine.wait_until_succeeds("ip -4 address show scope global | grep -q inet", 300)
    page = story.page()
    print(page)
    assert "This is the recovery" in page
    assert "failed, its tries are spent" in page


def test_it_gives_itself_its_tries_back(story: Story) -> None:
    name = layouts.load().esp["recovery_first"].replace("@v", recovery.version())
    story.machine.wait_until_succeeds(f"ls /run/appliance-lifeline/esp/EFI/Linux | grep -qxF '{name}'", 300)


@fault(49)
def test_it_installs_from_the_lifeline_and_the_new_system_proves_itself(story: Story) -> None:
    assert story.machine.wait_for_boot(LONG).version == SECOND
    story.blessed(SECOND)
    listed = story.machine.succeed("appliance-slots")
    print(listed)
    assert "recovery" in listed
