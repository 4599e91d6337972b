"""Cases 30 to 40: wrong clocks, full and failing disks, a disk that is not what it seems."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from appliance_update.config import Config, Gate
from appliance_update.gate.judge import judge
from appliance_update.gpt import read_table
from appliance_update.layout import Role
from tests.appliance_update.conftest import V1, V2, V3, World
from tests.appliance_update.simulator import add_disk, relabel, write_table
from tests.faults.bench import Bench, hooked
from tests.faults.marks import fault

YEAR = 365 * 24 * 3600.0


@fault(30)
def test_the_clock_says_1970(bench: Bench) -> None:
    bench.publish(V2)
    bench.world.now = lambda: 40.0
    bench.run()
    assert bench.boot() == V2
    bench.holds(V3, "the image's build time and the last signed time stand in for the clock")


@fault(31)
def test_the_clock_is_ten_years_ahead_then_right_again(bench: Bench) -> None:
    bench.publish(V2)
    bench.world.now = lambda: time.time() + 10 * YEAR
    assert "by our clock it is" in bench.run()
    bench.boot()
    bench.world.now = time.time
    bench.holds(V3, "refused with the time that was believed; nothing of it is remembered")


@fault(32)
@pytest.mark.parametrize("jump", [-50 * YEAR, +50 * YEAR])
def test_the_clock_jumps_while_the_gates_deadline_runs(
    bench: Bench, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline counts seconds since boot: a check that heals after 20 of them passes, one that never does fails."""
    elapsed, wall = 0.0, time.time()
    monkeypatch.setattr(time, "time", lambda: wall + elapsed + (jump if elapsed > 5 else 0))

    def pause(seconds: float) -> None:
        nonlocal elapsed
        elapsed += seconds

    def starting(_config: Config, _host: object) -> str | None:
        return None if elapsed >= 20 else "still starting"

    config = Config(gate=Gate(deadline=60.0))
    verdict = judge(config, bench.world.device.host, {"slow": starting}, pause=pause, clock=lambda: elapsed)
    assert (verdict.passed, verdict.seconds) == (True, 20.0)
    never = judge(
        config, bench.world.device.host, {"never": lambda _config, _host: "no"}, pause=pause, clock=lambda: elapsed
    )
    assert not never.passed
    assert never.seconds == pytest.approx(60.0, abs=3)
    monkeypatch.undo()
    bench.holds(V2, "the deadline is counted in seconds since boot")


@fault(33)
def test_the_esp_is_full(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.publish(V2)
    _full(monkeypatch, bench.world.device.esp)
    said = bench.run()
    assert "ESP" in said
    assert bench.world.device.writes == 0
    monkeypatch.undo()
    bench.holds(V3, "refused before the slot is touched, with what to remove")


@fault(34)
def test_the_state_disk_is_full(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.publish(V2)
    _full(monkeypatch, bench.world.device.state)
    said = bench.run()
    assert "free" in said
    assert bench.world.device.writes == 0
    monkeypatch.undo()
    bench.holds(V3, "refused before the first byte is fetched")


def _full(monkeypatch: pytest.MonkeyPatch, below: Path) -> None:
    real = shutil.disk_usage

    def usage(path: str | Path) -> object:
        found = real(path)
        return found._replace(free=4096) if Path(path).is_relative_to(below) else found

    monkeypatch.setattr(shutil, "disk_usage", usage)


@fault(34)
@pytest.mark.parametrize("every", [7])
def test_the_state_disk_fills_up_in_the_middle(bench: Bench, every: int) -> None:
    """ENOSPC at every seventh place in turn, until a run gets through."""
    bench.publish(V2)
    for at in range(0, 90, every):
        count = -1

        def place(_name: str, at: int = at) -> bool:
            nonlocal count
            count += 1
            return count == at

        met = bench.cut_at(place, lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        bench.report.runs += met
        if not met:
            break
    bench.holds(V3, "said, and tried again when there is room")


@fault(35)
def test_the_slot_is_too_small_by_a_block(bench: Bench) -> None:
    world = bench.world
    table = read_table(world.device.disk)
    number = world.device.layout.number(Role.DATA, "b")
    smaller = [replace(entry, size=entry.size - 4096) if entry.number == number else entry for entry in table]
    bench.publish(V2)
    write_table(world.device.disk, smaller)
    said = bench.run()
    assert "size" in said or "smaller" in said or "bytes" in said, said
    assert world.device.writes == 0
    write_table(world.device.disk, table)
    bench.holds(V3, "refused: the slot has not the size of the layout")


@fault(36)
def test_the_slots_medium_reports_errors(bench: Bench) -> None:
    bench.publish(V2)
    assert bench.cut_at(lambda name: name.startswith("partition:"), lambda: OSError(errno.EIO, os.strerror(errno.EIO)))
    assert not any(V2 in name for name in bench.world.device.ukis())
    assert bench.boot() == V1
    bench.holds(V3, "no boot entry is made; written anew when the medium answers")


@fault(37)
def test_what_is_read_back_differs_from_what_was_written(bench: Bench) -> None:
    bench.publish(V2)
    world, flipped = bench.world, False

    def flip(name: str) -> None:
        nonlocal flipped
        if name == "slot:written" and not flipped:
            flipped = True
            with world.device.disk.open("r+b") as disk:
                disk.seek(world.device.partition(Role.DATA, "b").start + 100)
                byte = disk.read(1)
                disk.seek(-1, os.SEEK_CUR)
                disk.write(bytes([byte[0] ^ 1]))

    with hooked(flip):
        said = bench.run()
    assert "reads back differently" in said
    assert not any(V2 in name for name in world.device.ukis())
    assert bench.boot() == V1
    bench.holds(V3, "no boot entry is made; the disk is named")


@fault(38)
def test_a_second_entry_of_the_same_version(bench: Bench) -> None:
    """A twin without a counter makes the loader's blessing a no-op; the updater leaves one entry of a version."""
    bench.publish(V2)
    bench.run()
    directory = bench.world.device.uki_directory
    (counted,) = [path for path in directory.iterdir() if V2 in path.name]
    shutil.copyfile(counted, directory / f"t640_{V2}+1-2.efi")
    bench.boot()
    bench.holds(V3, "the twin is no success, and goes with the next update")


@fault(39)
def test_a_second_disk_with_the_same_labels(bench: Bench) -> None:
    bench.publish(V2)
    disk = add_disk(bench.world.device, "sda", bench.world.device.disk)
    said = bench.run()
    assert "sda" in said
    assert bench.world.device.writes == 0
    _unplug(bench.world, disk)
    bench.holds(V3, "refused, with the disk's name")


def _unplug(world: World, disk: Path) -> None:
    disk.unlink()
    (world.device.root / "sys/class/block" / disk.name).unlink()
    shutil.rmtree(world.device.root / "sys/devices" / disk.name)


@fault(40)
def test_the_other_slot_is_mounted(bench: Bench) -> None:
    bench.publish(V2)
    mounts = bench.world.device.root / "proc/self/mountinfo"
    before = mounts.read_text()
    mounts.write_text(before + "50 1 259:5 / /mnt ro - erofs /dev/nvme0n1p5 ro\n")
    said = bench.run()
    assert "mounted" in said
    assert bench.world.device.writes == 0
    mounts.write_text(before)
    bench.holds(V3, "refused, with where it is mounted")


@fault(38)
def test_a_partition_that_somebody_relabelled(bench: Bench) -> None:
    bench.publish(V2)
    number = bench.world.device.layout.number(Role.DATA, "b")
    relabel(bench.world.device.disk, number, label="backup", uuid=uuid.uuid4())
    bench.run()
    assert bench.boot() == V2
    bench.holds(V3, "a slot is known by its place, type and size; a strange label does not matter")
