"""Faults on the virtual T640: the real loader, kernel, initrd, systemd, gate and disk.

`make test` runs a part: a version that does not come up has one try left, and the next version is installed and armed
after each fault. `make faults` runs all, with all three tries, and boots the next version too.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from t640.altered import Alteration
from t640.processes import wait_for
from tests.faults.machinery import PATIENCE, READY, Machinery, machinery
from tests.faults.marks import fault
from tests.faults.outcome import Report

pytestmark = pytest.mark.vm


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


def _switch_on_again(bench: Machinery) -> None:
    bench.machine.start()
    bench.report.boots += 1
    assert bench.machine.wait_for_boot(PATIENCE).version == bench.versions[0]
    bench.proved(bench.versions[0])


@fault(4)
@pytest.mark.parametrize("mib", [pytest.param(2, marks=pytest.mark.thorough), 150])
def test_power_cut_while_the_slot_is_written(bench: Machinery, mib: int) -> None:
    """The plug is pulled as soon as the disk has got so much; what was not synced is lost."""
    machine = bench.machine
    bench.offer(bench.versions[1])
    bench.by_hand("appliance-update fetch")
    machine.succeed("sync")
    enough = machine.written() + (mib << 20)
    machine.succeed("systemd-run --no-block appliance-update apply")
    wait_for(lambda: machine.written() >= enough, timeout=PATIENCE, what="The writing of the slot", every=0.01)
    machine.crash()
    _switch_on_again(bench)
    machine.fail(f"ls /boot/EFI/Linux | grep {bench.versions[1]}")
    bench.holds(f"cut after {mib} MiB: the running version boots; the slot is written anew")


@fault(7)
def test_power_cut_between_the_slot_and_its_boot_entry(bench: Machinery) -> None:
    """Both labels are on the disk, and the ESP has no entry for them yet."""
    two = bench.versions[1]
    bench.offer(two)
    bench.machine.succeed("echo 'uki:write:reboot' >/run/appliance-update/faults-allowed")
    bench.update()
    bench.boots(bench.versions[0])
    bench.machine.succeed(f"sfdisk --dump /dev/sda | grep 'name=\"t640_{two}\"'")
    bench.machine.fail(f"ls /boot/EFI/Linux | grep {two}")
    bench.proved(bench.versions[0])
    bench.holds("the running version boots; the slot is kept or written anew, its entry follows")


def a_tampered_artifact(bench: Machinery) -> None:
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


def replayed_metadata(bench: Machinery) -> None:
    metadata, old = bench.updates.repository / "metadata", bench.updates.repository.with_name("old")
    shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(metadata, old)
    bench.updates.renew()
    bench.refused()  # it has now seen the newer one
    shutil.rmtree(metadata)
    shutil.copytree(old, metadata)
    assert "not to be trusted" in bench.refused()
    bench.updates.renew()
    bench.updates.renew()


def expired_metadata(bench: Machinery) -> None:
    bench.machine.succeed("systemctl stop systemd-timesyncd.service || true", "date -s '+2 years'")
    assert "expired" in bench.refused()
    bench.machine.succeed("date -s '-2 years'")


def a_full_esp(bench: Machinery) -> None:
    bench.machine.succeed("ls /boot >/dev/null", "dd if=/dev/zero of=/boot/ballast bs=1M status=none || true; sync")
    assert "ESP" in bench.refused()
    bench.machine.succeed("rm /boot/ballast; sync")


def a_clock_at_1970(bench: Machinery) -> None:
    """No refusal: the clock is known to be wrong, and the update goes on by the time of build and metadata."""
    bench.machine.succeed("systemctl stop systemd-timesyncd.service || true", "date -s @86400")


@fault(16, 20, 21, 30, 33)
def test_what_must_be_refused_is_refused_before_the_slot_is_touched(bench: Machinery) -> None:
    before = bench.machine.succeed("sfdisk --dump /dev/sda")
    replayed_metadata(bench)
    expired_metadata(bench)
    bench.offer(bench.versions[1])
    a_full_esp(bench)
    a_tampered_artifact(bench)
    assert bench.machine.succeed("sfdisk --dump /dev/sda") == before
    a_clock_at_1970(bench)
    bench.holds("refused with a reason, the slot untouched; applied with the clock at 1970")


def _times(bench: Machinery) -> str:
    return "three times" if bench.whole else "once, its last try"


def _tried_and_left(bench: Machinery) -> None:
    one, two, _ = bench.versions
    bench.try_out(two)
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
    bench.holds(f"tried {_times(bench)}; then the old version by itself")


@pytest.mark.thorough
@fault(42)
def test_empty_initrd(bench: Machinery) -> None:
    bench.offer(bench.versions[1], alteration=Alteration.EMPTY_INITRD)
    _tried_and_left(bench)
    bench.holds(f"tried {_times(bench)}; then the old version by itself")


@pytest.mark.thorough
@fault(43)
def test_no_init_in_the_system(bench: Machinery) -> None:
    bench.offer(bench.versions[1], alteration=Alteration.NO_INIT)
    _tried_and_left(bench)
    bench.holds(f"tried {_times(bench)}; then the old version by itself")


@fault(44)
@pytest.mark.parametrize(
    "hang", [Alteration.FROZEN, pytest.param(Alteration.CRASHED, marks=pytest.mark.thorough)], ids=str
)
def test_a_hang_without_a_panic(bench: Machinery, hang: Alteration) -> None:
    """PID 1 stands still, and the hardware watchdog resets the machine; or PID 1 crashes, and reboots by itself."""
    one, two, _ = bench.versions
    bench.offer(two, alteration=hang)
    bench.try_out(two)
    end = time.monotonic() + 2 * PATIENCE
    seen: list[str] = []
    while one not in seen:
        assert time.monotonic() < end, seen
        seen.append(bench.machine.wait_for_boot(PATIENCE).version)
    bench.report.boots += len(seen)
    assert seen.count(two) <= (3 if bench.whole else 1), seen
    bench.proved(one)
    assert f"t640_{two}+0-3.efi" in bench.machine.succeed("ls /boot/EFI/Linux")
    bench.holds(f"reset {_times(bench)}; then the old version by itself")


@pytest.mark.thorough
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


@pytest.mark.thorough  # `make test` has it in the image in a container (test_gate_in_container)
@fault(53)
def test_the_pilots_fault_as_an_update(bench: Machinery) -> None:
    """Its agent lives and dies of every update order: the rehearsal shows it one, in each of its three tries."""
    _gives_up_by_itself(bench, "pilot-agent")
    history = bench.machine.succeed("cat /var/lib/appliance-update/history.jsonl")
    assert "mcp_api_key_file" in history
    bench.holds("refused by its rehearsal three times, with the reason in the history; then the old version by itself")


@pytest.mark.thorough
@fault(46)
def test_a_system_that_cannot_mount_its_state(bench: Machinery) -> None:
    """Nothing that keeps its notes below /var comes up, the gate neither; the way back must not need it."""
    _gives_up_by_itself(bench, "no-state")
    bench.holds("without its state each of three boots ended by itself; then the old version")


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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
