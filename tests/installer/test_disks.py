"""Which disk: the choice among the disks of real machines, described by a /sys made of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.installer.conftest import INSTALLER, candidates, pretend, sourced

GB = 1_000_000_000
MINIMUM = 8_722_055_168

PCI = "devices/pci0000:00"
PLACES = {
    "nvme0n1": f"{PCI}/0000:01:00.0/nvme/nvme0/nvme0n1",
    "nvme1n1": "devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1",
    "sda": f"{PCI}/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda",
    "sdb": f"{PCI}/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb",
    "sdc": f"{PCI}/0000:00:14.0/usb1/1-4/1-4:1.0/host7/target7:0:0/7:0:0:0/block/sdc",
    "sdd": "devices/platform/host9/session1/target9:0:0/9:0:0:0/block/sdd",
    "vda": f"{PCI}/0000:00:05.0/virtio2/block/vda",
    "mmcblk0": f"{PCI}/0000:00:1c.0/mmc_host/mmc0/mmc0:0001/block/mmcblk0",
    "mmcblk0boot0": f"{PCI}/0000:00:1c.0/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0boot0",
    "mmcblk0rpmb": f"{PCI}/0000:00:1c.0/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0rpmb",
    "mmcblk1": f"{PCI}/0000:00:1d.0/mmc_host/mmc1/mmc1:aaaa/block/mmcblk1",
    "loop0": "devices/virtual/block/loop0",
    "zram0": "devices/virtual/block/zram0",
    "dm-0": "devices/virtual/block/dm-0",
    "sr0": f"{PCI}/0000:00:17.0/ata2/host1/target1:0:0/1:0:0:0/block/sr0",
    "xyz0": "devices/unheard-of/xyz0",
}


class Machine:
    """A machine's /sys with the disks that are put into it."""

    def __init__(self, folder: Path) -> None:
        self.sys = folder
        (folder / "block").mkdir(parents=True)

    def add(self, name: str, *, size: int = 32 * GB, **facts: str) -> None:
        """A disk; facts are files in its folder (`removable`), or below `device` (`device_type`)."""
        place = self.sys / PLACES[name]
        (place / "device").mkdir(parents=True)
        (self.sys / "block" / name).symlink_to(place)
        for fact, value in ({"size": str(size // 512), "ro": "0", "removable": "0"} | facts).items():
            (place / fact.replace("device_", "device/")).write_text(f"{value}\n")

    def offered(self, *media: str) -> list[str]:
        return candidates(self.sys, MINIMUM, *media)[0]

    def said(self, *media: str) -> str:
        return candidates(self.sys, MINIMUM, *media)[1]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "sys")


def test_the_internal_disk_is_taken_and_the_stick_is_not(machine: Machine) -> None:
    machine.add("nvme0n1", device_transport="pcie", device_model="Micron 2300")
    machine.add("sdb", removable="1", device_model="Cruzer")
    assert machine.offered() == ["/dev/nvme0n1"]
    assert "/dev/sdb, 32 GB, Cruzer: USB" in machine.said()


def test_emmc_counts_as_internal_and_its_boot_areas_do_not(machine: Machine) -> None:
    # It has no `model` (but a `name`), and reads as non-removable or removable as the reader's driver pleases.
    machine.add("mmcblk0", size=int(15.8 * GB), device_type="MMC", device_name="BJTD4R", removable="1")
    machine.add("mmcblk0boot0", size=4 << 20)
    machine.add("mmcblk0rpmb", size=16 * GB)
    assert machine.offered() == ["/dev/mmcblk0"]


def test_emmc_without_a_model_has_a_name_to_show(machine: Machine) -> None:
    machine.add("mmcblk0", device_type="MMC", device_name="BJTD4R")
    assert sourced(machine.sys, 'described_disk "$1"', "/dev/mmcblk0")[0] == [
        "/dev/mmcblk0", "32", "GB", "BJTD4R", "(emmc)",
    ]  # fmt: skip


def test_a_memory_card_in_a_reader_is_not_internal_though_it_says_it_is_not_removable(machine: Machine) -> None:
    machine.add("mmcblk1", device_type="SD", removable="0")
    assert machine.offered() == []
    assert "a memory card" in machine.said()


def test_a_stick_that_says_it_is_not_removable_is_still_a_stick(machine: Machine) -> None:
    machine.add("sdc", removable="0")
    assert machine.offered() == []


def test_a_sata_disk_that_says_it_is_removable_is_still_the_internal_disk(machine: Machine) -> None:
    machine.add("sda", removable="1")
    assert machine.offered() == ["/dev/sda"]


def test_the_medium_it_was_started_from_is_never_taken_even_if_it_looks_internal(machine: Machine) -> None:
    machine.add("sda")
    assert machine.offered("/dev/sda") == []
    assert "the installation medium" in machine.said("/dev/sda")


def test_an_nvme_disk_is_known_whichever_way_the_kernel_files_it(machine: Machine) -> None:
    machine.add("nvme1n1")
    assert machine.offered() == ["/dev/nvme1n1"]


def test_a_disk_on_the_network_is_nobody_s_internal_disk(machine: Machine) -> None:
    machine.add("nvme0n1", device_transport="tcp")
    machine.add("sdd")
    assert machine.offered() == []


def test_what_is_hidden_behind_another_path_is_not_offered_twice(machine: Machine) -> None:
    machine.add("nvme0n1", hidden="1")
    assert machine.offered() == []


@pytest.mark.parametrize("name", ["loop0", "zram0", "dm-0", "sr0"])
def test_what_is_no_disk_is_no_candidate_and_not_worth_a_word(machine: Machine, name: str) -> None:
    machine.add(name)
    assert machine.offered() == []
    assert machine.said() == ""


def test_what_is_attached_in_an_unknown_way_is_left_alone(machine: Machine) -> None:
    machine.add("xyz0")
    assert machine.offered() == []
    assert "unknown way" in machine.said()


def test_a_disk_that_is_too_small_or_write_protected_is_named_with_its_reason(machine: Machine) -> None:
    machine.add("sda", size=4 * GB)
    machine.add("nvme0n1", ro="1")
    assert machine.offered() == []
    assert "too small" in machine.said()
    assert "write-protected" in machine.said()


def test_two_internal_disks_are_both_offered(machine: Machine) -> None:
    machine.add("sda")
    machine.add("mmcblk0", device_type="MMC")
    assert machine.offered() == ["/dev/mmcblk0", "/dev/sda"]


# -- a disk somebody named --------------------------------------------------------------------------------------------


def refused(machine: Machine, disk: str) -> str:
    """Why this is not a disk to write to; nothing if it is one."""
    return sourced(machine.sys, '(check_whole "$1") || true', disk)[1]


def test_a_whole_disk_may_be_named(machine: Machine) -> None:
    machine.add("sdb")
    assert refused(machine, "/dev/sdb") == ""


def test_a_partition_may_not(machine: Machine) -> None:
    machine.add("sdb")
    (machine.sys / PLACES["sdb"] / "sdb1").mkdir()
    assert "not a whole disk" in refused(machine, "/dev/sdb1")


@pytest.mark.parametrize("name", ["zram0", "dm-0", "sr0", "mmcblk0boot0"])
def test_what_is_made_of_a_disk_may_not(machine: Machine, name: str) -> None:
    machine.add(name)
    assert "Name the disk itself" in refused(machine, f"/dev/{name}")


@pytest.mark.parametrize("fact", ["diskseq", "size", "device_serial"])
def test_a_disk_that_took_the_name_of_another_is_told_from_it(machine: Machine, fact: str) -> None:
    machine.add("sda", diskseq="7", device_serial="A1")
    known = sourced(machine.sys, "identities /dev/sda")[0]
    (machine.sys / PLACES["sda"] / fact.replace("device_", "device/")).write_text("8\n")
    assert sourced(machine.sys, "identities /dev/sda")[0] != known


# -- without a person ------------------------------------------------------------------------------------------------


@pytest.fixture
def t640(machine: Machine) -> Machine:
    names(machine, "HP", "HP t640 Thin Client")
    return machine


def names(machine: Machine, vendor: str, product: str) -> None:
    folder = machine.sys / "class/dmi/id"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sys_vendor").write_text(f"{vendor}\n")
    (folder / "product_name").write_text(f"{product}\n")


def goes(machine: Machine, seed: Path, *disks: str) -> tuple[bool, str]:
    """Whether it would install without asking, and why not."""
    script = 'may_go_unattended "$@" && echo yes || echo no'
    words, said = sourced(machine.sys, script, str(seed), str(INSTALLER.parent / "machines"), *disks)
    return words == ["yes"], said


def empty(folder: Path) -> str:
    disk = folder / "empty"
    disk.write_bytes(bytes(1 << 20))
    return str(disk)


def flagged(folder: Path) -> Path:
    seed = folder / "seed"
    seed.mkdir()
    (seed / "unattended").write_text("install\n")
    return seed


def test_a_medium_with_the_flag_installs_by_itself_on_a_machine_of_the_list(t640: Machine, tmp_path: Path) -> None:
    assert goes(t640, flagged(tmp_path), empty(tmp_path))[0]


def test_after_a_try_that_failed_it_asks(t640: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTALLER_RUN", str(tmp_path))
    (tmp_path / "install-appliance.unattended").touch()
    went, said = goes(t640, flagged(tmp_path), empty(tmp_path))
    assert not went
    assert "the last try failed" in said


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_disk_whose_table_is_damaged_may_carry_an_appliance(t640: Machine, tmp_path: Path, place: str) -> None:
    disk = empty(tmp_path)
    with Path(disk).open("r+b") as file:
        file.seek(512 if place == "first" else -512, 0 if place == "first" else 2)
        file.write(b"EFI PART damaged")
    went, said = goes(t640, flagged(tmp_path), disk)
    assert not went
    assert "cannot be read" in said


@pytest.mark.parametrize("bytes_read", ["none", "few"])
def test_a_disk_that_cannot_be_read_may_carry_an_appliance(
    t640: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_read: str
) -> None:
    pretend(tmp_path, monkeypatch, "dd", "exit 1" if bytes_read == "none" else "echo short")
    went, said = goes(t640, flagged(tmp_path), empty(tmp_path))
    assert not went
    assert "cannot be read" in said


def test_without_the_flag_it_asks(t640: Machine, tmp_path: Path) -> None:
    assert not goes(t640, tmp_path, "/dev/null")[0]


@pytest.mark.parametrize(("vendor", "product"), [("Dell Inc.", "OptiPlex 3080"), ("HP", "HP t640"), ("", "")])
def test_on_a_machine_that_is_not_on_the_list_it_asks_and_says_why(
    machine: Machine, tmp_path: Path, vendor: str, product: str
) -> None:
    names(machine, vendor, product)
    went, said = goes(machine, flagged(tmp_path), "/dev/null")
    assert not went
    assert "not on the list" in said


def test_a_machine_without_a_name_is_not_on_the_list(machine: Machine, tmp_path: Path) -> None:
    assert not goes(machine, flagged(tmp_path), "/dev/null")[0]


def test_with_two_disks_a_person_must_choose(t640: Machine, tmp_path: Path) -> None:
    went, said = goes(t640, flagged(tmp_path), "/dev/null", "/dev/zero")
    assert not went
    assert "2 disks" in said
