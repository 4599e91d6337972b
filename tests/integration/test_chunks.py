"""An update by chunks in the virtual T640: the real sandbox, loop devices of a real disk, and a boot.

With casync and systemd 257 of Debian trixie, and with desync and the systemd of forky, which is nearer to NixOS's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest

from benchmarks.update import NEW, OLD, changed_package
from t640 import disk, releases
from t640.image import build
from t640.machine import Machine
from t640.session import open_session
from t640.world import World

pytestmark = [pytest.mark.vm, pytest.mark.thorough]


@pytest.fixture
def world() -> Iterator[World]:
    with open_session() as session:
        yield World(session, hosts=())


def blessed(machine: Machine) -> float:
    """Wait until the gate has passed; seconds from multi-user.target to the blessing, by the machine's own clock."""
    machine.wait_until_succeeds("systemctl is-active --quiet boot-complete.target")
    begun = machine.get_unit_property("multi-user.target", "ActiveEnterTimestampMonotonic")
    ended = machine.get_unit_property("systemd-bless-boot.service", "ExecMainExitTimestampMonotonic")
    return (int(ended) - int(begun)) / 1e6


def fetched(world: World, ending: str) -> int:
    """Answers of the update server for names that end so."""
    log = next(world.session.work.glob("updates-web/access.log")).read_text()
    return sum(f"{ending} HTTP" in line for line in log.splitlines())


@pytest.mark.parametrize("release", ["trixie", "forky"])
def test_a_release_that_differs_in_one_package_comes_in_chunks_and_boots(world: World, release: str) -> None:
    recipe = releases.recipe(NEW, release=release)
    old = build(releases.recipe(OLD, release=release))
    new = build(dataclasses.replace(recipe, files={**recipe.files, **changed_package()}))
    machine = world.appliance(disk.assemble(old), enrol=False)
    try:
        machine.start()
        assert machine.wait_for_boot().version == OLD
        print(f"gate to commit: {blessed(machine):.0f} s after multi-user.target")
        machine.succeed("systemctl stop appliance-update.timer")
        world.updates.put(old, chunks=True)
        world.updates.put(new, chunks=True)
        machine.succeed("systemctl start --no-block appliance-update.service")
        assert machine.wait_for_boot().version == NEW
        print(f"gate to commit: {blessed(machine):.0f} s after multi-user.target")
        said = machine.succeed("journalctl -b -1 -u appliance-update.service --no-pager")
        assert "fetched whole" not in said, said
        assert fetched(world, ".raw.zst") == fetched(world, f"{NEW}.efi") == 0
        assert 0 < fetched(world, ".cacnk") < 100
        status = json.loads(machine.succeed("appliance-update status --json"))
        assert status["running_version"] == NEW
        machine.succeed('test -z "$(losetup --list --noheadings)"')
    finally:
        machine.crash()
