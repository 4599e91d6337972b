"""Faults on the virtual T640: the real loader, kernel, initrd, systemd, gate and disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from t640 import disk, releases
from t640.altered import Alteration
from t640.hardware import Hardware
from t640.image import build
from t640.paths import REPOSITORY
from t640.session import open_session
from t640.world import World
from tests.faults.machinery import PATIENCE, READY, Machinery, settled
from tests.faults.marks import fault
from tests.faults.outcome import Report

pytestmark = [pytest.mark.vm, pytest.mark.thorough]

VERSION = (REPOSITORY / "VERSION").read_text().strip()


def versions() -> tuple[str, str, str]:
    """Three consecutive versions, the repository's own first."""
    year, month, number = VERSION.split(".")
    one, two, three = (f"{year}.{month}.{int(number) + step}" for step in range(3))
    return one, two, three


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machinery]:
    """Booted, blessed, settled, and kept as a snapshot."""
    with open_session() as session:
        world = World(session, hosts=())
        base = disk.assemble(build(releases.recipe(VERSION)))
        machine = world.appliance(base, enrol=False, hardware=Hardware(storage="sata"))
        bench = Machinery(machine, world.updates, versions(), Report(), [])
        try:
            machine.start()
            assert machine.wait_for_boot().version == VERSION
            bench.proved(VERSION)
            settled(machine)
            # The updater's own timer must not come into the middle of a scenario.
            machine.succeed("systemctl stop appliance-update.timer", "sync")
            machine.snapshot(READY)
            yield bench
        finally:
            machine.crash()


@pytest.fixture
def bench(ready: Machinery, report: Report) -> Machinery:
    ready.report = report
    ready.rewind()
    return ready


def _cut(bench: Machinery, when: str) -> None:
    """Let an update begin, and pull the plug as soon as a condition holds inside."""
    bench.update()
    end = time.monotonic() + PATIENCE
    while bench.machine.execute(when)[0] != 0:
        assert time.monotonic() < end, f"{when!r} never held"
        time.sleep(0.05)
    bench.machine.crash()
    bench.machine.start()
    bench.report.boots += 1
    assert bench.machine.wait_for_boot(PATIENCE).version == bench.versions[0]
    bench.proved(bench.versions[0])


@fault(4)
def test_power_cut_while_the_slot_is_written(bench: Machinery) -> None:
    bench.offer(bench.versions[1])
    _cut(bench, "pgrep -f 'systemd-sysupdate.*update' && grep -q staging /run/appliance-update/status.json")
    bench.holds("the running version boots; the slot is written anew")


@fault(7)
def test_power_cut_between_the_slot_and_its_boot_entry(bench: Machinery) -> None:
    """Both labels are on the disk, and the ESP has no entry for them yet."""
    bench.offer(bench.versions[1])
    two = bench.versions[1]
    _cut(bench, f"sfdisk --dump /dev/sda | grep -q 'name=\"t640_{two}\"' && ! ls /boot/EFI/Linux | grep -q {two}")
    bench.holds("the running version boots; the slot is kept or written anew, its entry follows")


@fault(16)
def test_a_tampered_artifact(bench: Machinery) -> None:
    bench.offer(bench.versions[1])
    target = next((bench.updates.repository / "targets").rglob(f"*{bench.versions[1]}.data*"))
    own = target.with_name("own")
    shutil.copyfile(target, own)  # it may be a second name of a file in the cache
    own.replace(target)
    with target.open("r+b") as file:
        file.seek(10_000)
        byte = file.read(1)
        file.seek(10_000)
        file.write(bytes([byte[0] ^ 1]))
    said = bench.refused()
    assert "not what was signed" in said or "does not contain what was signed" in said, said
    target.unlink()
    bench.holds("refused before the slot was touched")


@fault(20, 21)
@pytest.mark.parametrize("kind", ["replayed", "expired"])
def test_metadata_of_another_time(bench: Machinery, kind: str) -> None:
    metadata = bench.updates.repository / "metadata"
    if kind == "expired":
        bench.machine.succeed("systemctl stop systemd-timesyncd.service || true", "date -s '+2 years'")
        assert "expired" in bench.refused()
        bench.machine.succeed("date -s '-2 years'")
    else:
        old = bench.updates.repository.with_name("old")
        shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(metadata, old)
        bench.updates.renew()
        bench.refused()  # it has now seen the newer one
        shutil.rmtree(metadata)
        shutil.copytree(old, metadata)
        assert "not to be trusted" in bench.refused()
        bench.updates.renew()
        bench.updates.renew()
    bench.holds("not trusted, nothing written")


@fault(33)
def test_the_esp_is_full(bench: Machinery) -> None:
    bench.offer(bench.versions[1])
    bench.machine.succeed("ls /boot >/dev/null", "dd if=/dev/zero of=/boot/ballast bs=1M status=none || true; sync")
    assert "ESP" in bench.refused()
    bench.machine.succeed("rm /boot/ballast; sync")
    bench.holds("refused before the slot was touched, with what to remove")


def _tried_and_left(bench: Machinery) -> None:
    one, two, _ = bench.versions
    bench.update()
    bench.boots(one)  # the tries of a system that never comes up say nothing to us
    bench.proved(one)
    status = bench.status()
    assert (status["running_version"], status["state"]) == (one, "rolled_back")
    names = bench.machine.succeed("ls /boot/EFI/Linux")
    assert f"t640_{two}+0-3.efi" in names, names
    assert two in bench.machine.succeed("appliance-update status")


@fault(41)
def test_kernel_panic(bench: Machinery) -> None:
    bench.offer(bench.versions[1], alteration=Alteration.PANIC)
    _tried_and_left(bench)
    bench.holds("three tries, then the old version by itself")


@fault(42)
def test_empty_initrd(bench: Machinery) -> None:
    bench.offer(bench.versions[1], alteration=Alteration.EMPTY_INITRD)
    _tried_and_left(bench)
    bench.holds("three tries, then the old version by itself")


@fault(43)
def test_no_init_in_the_system(bench: Machinery) -> None:
    bench.offer(bench.versions[1], alteration=Alteration.NO_INIT)
    _tried_and_left(bench)
    bench.holds("three tries, then the old version by itself")


@fault(44)
def test_a_hang_without_a_panic(bench: Machinery) -> None:
    """PID 1 freezes; the hardware watchdog resets the machine each time."""
    one, two, _ = bench.versions
    bench.offer(two, alteration=Alteration.FROZEN)
    bench.update()
    end = time.monotonic() + 2 * PATIENCE
    seen: list[str] = []
    while one not in seen:
        assert time.monotonic() < end, seen
        seen.append(bench.machine.wait_for_boot(PATIENCE).version)
    bench.report.boots += len(seen)
    assert seen.count(two) <= 3, seen
    bench.proved(one)
    assert f"t640_{two}+0-3.efi" in bench.machine.succeed("ls /boot/EFI/Linux")
    bench.holds("the watchdog resets it, three times; then the old version by itself")


@fault(45)
def test_the_root_hash_does_not_fit_the_slot(bench: Machinery) -> None:
    """The slot's first blocks are lost after it was read back and before it boots."""
    bench.offer(bench.versions[1])
    bench.machine.succeed("sed -i 's/^reboot = true/reboot = false/' /etc/appliance-update/config.toml || true")
    _armed_without_reboot(bench)
    slot = f"/dev/disk/by-partlabel/t640_{bench.versions[1]}"
    bench.machine.succeed(
        f"udevadm trigger --settle; dd if=/dev/zero of={slot} bs=1M count=8 conv=notrunc,fsync status=none"
    )
    bench.machine.execute("systemctl --no-block reboot")
    bench.boots(bench.versions[0])
    bench.proved(bench.versions[0])
    assert bench.status()["state"] == "rolled_back"
    bench.holds("dm-verity refuses the slot, three tries, then the old version by itself")


def _armed_without_reboot(bench: Machinery) -> None:
    """`fetch` and `apply` by hand: they arm and leave the reboot to the technician."""
    bench.machine.succeed("appliance-update fetch", timeout=PATIENCE)
    bench.machine.succeed("appliance-update apply", timeout=PATIENCE)
    assert bench.status()["state"] == "armed"


@fault(47)
def test_a_default_entry_pins_the_bad_version(bench: Machinery) -> None:
    """A pinned entry ignores boot assessment: the bad version is booted on. It must stay up and take the next one."""
    two = bench.versions[1]
    bench.offer(two, "bad-health")
    bench.machine.succeed(f"ls /boot >/dev/null; echo 'default t640_{two}*' >>/boot/loader/loader.conf; sync")
    bench.update()
    seen = [bench.machine.wait_for_boot(PATIENCE).version for _ in range(3)]
    assert set(seen) == {two}, seen
    last = bench.machine.wait_for_boot(PATIENCE).version
    bench.report.boots += 4
    assert last in bench.versions[:2]
    bench.holds("stays up when its tries are spent, and takes the next version")


@fault(48)
def test_the_firmwares_variables_are_lost(bench: Machinery) -> None:
    machine = bench.machine
    machine.shutdown(PATIENCE)
    fresh = Path(machine.work / "variables.qcow2")
    fresh.unlink()
    machine._fresh_variables()
    machine.start()
    bench.boots(bench.versions[0])
    bench.proved(bench.versions[0])
    bench.holds("the fallback path boots the loader, the loader the newest good version")
