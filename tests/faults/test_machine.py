"""Faults on the virtual T640, each alone: the real loader, kernel, initrd, systemd, gate and disk.

For `make faults`, which gives each version its three tries and boots the one after the fault too. `make test` has the
cuts, the panic and the hang on one device, one after the other (test_bad_day).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from t640.altered import Alteration
from tests.faults.machinery import PATIENCE, READY, Machinery, machinery
from tests.faults.marks import fault
from tests.faults.outcome import Report

pytestmark = [pytest.mark.vm, pytest.mark.thorough]


@pytest.fixture(scope="module")
def ready(pytestconfig: pytest.Config) -> Iterator[Machinery]:
    """Booted, blessed, settled, and kept as a snapshot."""
    with machinery(whole=pytestconfig.getoption("--boot-next")) as bench:
        bench.machine.snapshot(READY)
        yield bench


@pytest.fixture
def bench(ready: Machinery, report: Report) -> Machinery:
    ready.report = report
    ready.rewind()
    return ready


@fault(4)
@pytest.mark.parametrize("mib", [2, 150])
def test_power_cut_while_the_slot_is_written(bench: Machinery, mib: int) -> None:
    """The plug is pulled as soon as the disk has got so much; what was not synced is lost."""
    bench.offer(bench.versions[1])
    bench.cut_while_writing(mib)
    bench.machine.fail(f"ls /boot/EFI/Linux | grep {bench.versions[1]}")
    bench.holds(f"cut after {mib} MiB: the running version boots; the slot is written anew")


@fault(7)
def test_power_cut_between_the_slot_and_its_boot_entry(bench: Machinery) -> None:
    """Both labels are on the disk, and the ESP has no entry for them yet."""
    bench.offer(bench.versions[1])
    bench.cut_before_the_entry(bench.versions[1])
    bench.holds("the running version boots; the slot is kept or written anew, its entry follows")


@fault(41)
def test_kernel_panic(bench: Machinery) -> None:
    bench.offer(bench.versions[1], alteration=Alteration.PANIC)
    bench.try_and_leave(bench.versions[1])
    bench.holds(f"tried {bench.times}; then the old version by itself")


@fault(42)
def test_empty_initrd(bench: Machinery) -> None:
    bench.offer(bench.versions[1], alteration=Alteration.EMPTY_INITRD)
    bench.try_and_leave(bench.versions[1])
    bench.holds(f"tried {bench.times}; then the old version by itself")


@fault(43)
def test_no_init_in_the_system(bench: Machinery) -> None:
    bench.offer(bench.versions[1], alteration=Alteration.NO_INIT)
    bench.try_and_leave(bench.versions[1])
    bench.holds(f"tried {bench.times}; then the old version by itself")


@fault(44)
@pytest.mark.parametrize("hang", [Alteration.FROZEN, Alteration.CRASHED], ids=str)
def test_a_hang_without_a_panic(bench: Machinery, hang: Alteration) -> None:
    """PID 1 stands still, and the hardware watchdog resets the machine; or PID 1 crashes, and reboots by itself."""
    bench.offer(bench.versions[1], alteration=hang)
    bench.hang_and_leave(bench.versions[1])
    bench.holds(f"reset {bench.times}; then the old version by itself")


@fault(45)
def test_the_root_hash_does_not_fit_the_slot(bench: Machinery) -> None:
    """The slot's first blocks are lost after it was read back and before it boots."""
    bench.offer(bench.versions[1])
    bench.arm(bench.versions[1])
    slot = f"/dev/disk/by-partlabel/t640_{bench.versions[1]}"
    bench.machine.succeed(
        f"udevadm trigger --settle; dd if=/dev/zero of={slot} bs=1M count=8 conv=notrunc,fsync status=none"
    )
    bench.machine.begin_reboot()
    bench.boots(bench.versions[0])
    bench.proved(bench.versions[0])
    assert bench.status()["state"] == "rolled_back"
    bench.holds("dm-verity refuses the slot, three tries, then the old version by itself")


def _gives_up_by_itself(bench: Machinery, variant: str) -> None:
    one, two, _ = bench.versions
    bench.offer(two, variant)
    bench.update()
    bench.boots(two, two, two, one)
    bench.proved(one)
    assert bench.status()["state"] == "rolled_back"


@fault(53)
def test_the_pilots_fault_as_an_update(bench: Machinery) -> None:
    """Its agent lives and dies of every update order: the rehearsal shows it one, in each of its three tries."""
    _gives_up_by_itself(bench, "pilot-agent")
    history = bench.machine.succeed("cat /var/lib/appliance-update/history.jsonl")
    assert "mcp_api_key_file" in history
    bench.holds("refused by its rehearsal three times, with the reason in the history; then the old version by itself")


@fault(46)
def test_a_system_that_cannot_mount_its_state(bench: Machinery) -> None:
    """Nothing that keeps its notes below /var comes up, the gate neither; the way back must not need it."""
    _gives_up_by_itself(bench, "no-state")
    bench.holds("without its state each of three boots ended by itself; then the old version")


def test_a_proved_system_that_loses_its_state_stays_up_and_says_so(bench: Machinery) -> None:
    """Nothing would come of rebooting it: no version has another state. Who looks at its page is told."""
    machine = bench.machine
    state = "$(findmnt --noheadings --output SOURCE /var)"
    machine.succeed(f"dd if=/dev/zero of={state} bs=1M count=64 conv=notrunc,fsync status=none")
    machine.reset()
    bench.boots(bench.versions[0])
    page = "curl --silent --show-error --max-time 60 http://127.0.0.1:8081/"
    machine.wait_until_succeeds(f"{page} | grep 'NOT MOUNTED'", PATIENCE)
    boot = machine.succeed("cat /proc/sys/kernel/random/boot_id")
    time.sleep(300)  # longer than the gate's patience
    assert machine.succeed("cat /proc/sys/kernel/random/boot_id") == boot
    machine.succeed(f"{page} | grep 'NOT MOUNTED'")


@fault(47)
def test_a_default_entry_pins_the_bad_version(bench: Machinery) -> None:
    """A pinned entry ignores boot assessment: the bad version is booted on, until its gate takes the pin away."""
    one, two, _ = bench.versions
    bench.offer(two, "bad-health")
    bench.machine.succeed(f"ls /boot >/dev/null; echo 'default t640_{two}*' >>/boot/loader/loader.conf; sync")
    bench.update()
    bench.boots(two, two, two, two, one)
    bench.proved(one)
    assert bench.status()["state"] == "quarantined"  # given up when its tries were over, before the pin was gone
    assert "default" not in bench.machine.succeed("cat /boot/loader/loader.conf")
    bench.holds("booted once more than its tries; then the pin was taken away, and the old version boots")


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
