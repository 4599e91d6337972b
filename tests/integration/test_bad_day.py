"""One device and one bad day: lied to, cut off twice, panicking, hanging, blind; and in the end the next version.

What `make test` has of the faults on the machine. Each step goes on where the one before ended, and what it installs
shows that the fault before has not kept the device from its next version. A version that does not come up has one try
left. `make faults` has cuts, panic and hang each alone as well (test_machine).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from t640.altered import Alteration
from t640.releases import version
from tests.faults.machinery import Machinery, machinery
from tests.faults.marks import fault
from tests.faults.outcome import Report, Stage

pytestmark = [pytest.mark.vm, pytest.mark.story]

PANICS, HANGS, BLIND, LAST = version(1), version(2), version(3), version(4)


@pytest.fixture(scope="module")
def device() -> Iterator[Machinery]:
    with machinery(whole=False) as made:
        yield made


@pytest.fixture
def bench(device: Machinery, report: Report) -> Machinery:
    """The device as the step before has left it."""
    report.stage = Stage.MACHINE
    device.report = report
    device.evidence[:] = device.ledger()
    return device


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


def a_tampered_artifact(bench: Machinery) -> None:
    target = next((bench.updates.repository / "targets").rglob(f"*{PANICS}.data*"))
    signed = target.with_name("signed")
    target.rename(signed)
    shutil.copyfile(signed, target)
    with target.open("r+b") as file:
        file.seek(10_000)
        byte = file.read(1)
        file.seek(10_000)
        file.write(bytes([byte[0] ^ 1]))
    said = bench.refused()
    assert "not what was signed" in said or "does not contain what was signed" in said, said
    signed.replace(target)


@fault(16, 20, 21, 33)
def test_what_must_be_refused_is_refused_before_the_slot_is_touched(bench: Machinery) -> None:
    before = bench.machine.succeed("sfdisk --dump /dev/sda")
    replayed_metadata(bench)
    expired_metadata(bench)
    bench.offer(PANICS, alteration=Alteration.PANIC)
    a_full_esp(bench)
    a_tampered_artifact(bench)
    assert bench.machine.succeed("sfdisk --dump /dev/sda") == before
    bench.kept("refused with a reason, the slot untouched")


@fault(4)
def test_the_power_fails_while_the_slot_is_written(bench: Machinery) -> None:
    bench.cut_while_writing(150)
    bench.machine.fail(f"ls /boot/EFI/Linux | grep {PANICS}")
    bench.kept("cut after 150 MiB: the running version boots; the slot is written anew")


@fault(7)
def test_the_power_fails_between_the_slot_and_its_boot_entry(bench: Machinery) -> None:
    bench.cut_before_the_entry(PANICS)
    bench.kept("the running version boots; the slot is kept or written anew, its entry follows")


@fault(41)
def test_a_version_that_panics_is_left(bench: Machinery) -> None:
    bench.try_and_leave(PANICS)
    bench.kept(f"tried {bench.times}; then the old version by itself")


@fault(44)
def test_a_version_that_hangs_is_left(bench: Machinery) -> None:
    bench.offer(HANGS, alteration=Alteration.FROZEN)
    bench.hang_and_leave(HANGS)
    bench.kept(f"reset {bench.times}; then the old version by itself")


@fault(54)
def test_a_version_whose_updater_reads_no_new_metadata_is_refused_by_its_rehearsal(bench: Machinery) -> None:
    bench.offer(BLIND, "blind-updater")
    bench.try_out(BLIND)
    bench.boots(BLIND, bench.versions[0])
    bench.left(BLIND)
    told = bench.machine.succeed("grep rolled_back /var/lib/appliance-update/history.jsonl | tail -n 1")
    assert "rehearsal: This system cannot update itself" in told
    bench.kept(f"refused by its own rehearsal, tried {bench.times}; then the old version by itself")


@fault(30)
def test_the_clock_is_at_1970_and_the_next_version_is_installed(bench: Machinery) -> None:
    """No refusal: the clock is known to be wrong, and the update goes on by the time of build and metadata."""
    bench.machine.succeed("systemctl stop systemd-timesyncd.service || true", "date -s @86400")
    bench.holds("applied with the clock at 1970", LAST)
