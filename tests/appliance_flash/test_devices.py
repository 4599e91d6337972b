"""Which device: what is in use, what is built in, and the one with `/`, from a /sys and /proc made of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance_flash import devices
from appliance_flash.errors import Refused
from tests.appliance_flash.conftest import call, loop, mounted_at, needs_loop_devices

GB = 1_000_000_000
PCI = "devices/pci0000:00"


class Machine:
    """A workstation's /sys and /proc."""

    def __init__(self, folder: Path) -> None:
        self.sys, self.proc = folder / "sys", folder / "proc"
        (self.sys / "block").mkdir(parents=True)
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self/mountinfo").write_text("")
        (self.proc / "swaps").write_text("Filename Type Size Used Priority\n")

    def add(self, name: str, place: str, number: str, **facts: str) -> Path:
        entry = self.sys / place / name
        (entry / "device").mkdir(parents=True)
        (entry / "holders").mkdir()
        (self.sys / "block" / name).symlink_to(entry)
        for fact, value in ({"size": str(32 * GB // 512), "ro": "0", "removable": "0", "dev": number} | facts).items():
            (entry / fact.replace("device_", "device/")).write_text(f"{value}\n")
        return entry

    def partition(self, entry: Path, name: str, number: str) -> Path:
        part = entry / name
        (part / "holders").mkdir(parents=True)
        (part / "partition").write_text("1\n")
        (part / "dev").write_text(f"{number}\n")
        return part

    def mount(self, number: str, where: str, source: str = "none") -> None:
        file = self.proc / "self/mountinfo"
        file.write_text(f"{file.read_text()}30 1 {number} / {where} rw - ext4 {source} rw\n")

    def look(self, name: str) -> devices.Device:
        return devices.describe(name, self.sys, self.proc)


USB = f"{PCI}/0000:00:14.0/usb2/2-1/2-1:1.0/host6/block"
SATA = f"{PCI}/0000:00:17.0/ata1/host0/block"
MMC = f"{PCI}/0000:00:1c.0/mmc_host/mmc0/mmc0:0001/block"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_stick_is_removable_even_if_it_says_it_is_not(machine: Machine) -> None:
    machine.add("sdb", USB, "8:16", device_vendor="SanDisk", device_model="Cruzer")
    found = machine.look("sdb")
    assert found.removable
    assert found.model == "SanDisk Cruzer"
    assert found.transport == "usb"
    devices.check(found, force=False)


def test_a_card_is_removable_and_a_soldered_chip_is_not(machine: Machine) -> None:
    machine.add("mmcblk0", MMC, "179:0", device_type="MMC", device_name="BJTD4R")
    machine.add("mmcblk1", MMC.replace("mmc0", "mmc1"), "179:8", device_type="SD", device_name="SU32G")
    assert not machine.look("mmcblk0").removable
    assert machine.look("mmcblk0").model == "BJTD4R"
    assert machine.look("mmcblk1").removable


def test_a_built_in_disk_is_refused_unless_forced(machine: Machine) -> None:
    machine.add("sda", SATA, "8:0", device_vendor="ATA", device_model="Samsung SSD")
    with pytest.raises(Refused, match="built into this machine"):
        devices.check(machine.look("sda"), force=False)
    devices.check(machine.look("sda"), force=True)


def test_a_mounted_stick_is_refused_unless_forced(machine: Machine) -> None:
    stick = machine.add("sdb", USB, "8:16")
    machine.partition(stick, "sdb1", "8:17")
    machine.mount("8:17", "/media/stick\\040one")
    with pytest.raises(Refused, match="in use: /media/stick one"):
        devices.check(machine.look("sdb"), force=False)
    devices.check(machine.look("sdb"), force=True)


def test_the_disk_with_the_root_is_refused_even_when_forced(machine: Machine) -> None:
    disk = machine.add("sdb", USB, "8:16")
    machine.partition(disk, "sdb2", "8:18")
    machine.mount("8:18", "/")
    for force in (False, True):
        with pytest.raises(Refused, match="this machine runs from"):
            devices.check(machine.look("sdb"), force=force)


def test_a_root_on_encrypted_volumes_is_traced_to_its_disk(machine: Machine) -> None:
    disk = machine.add("nvme0n1", f"{PCI}/0000:01:00.0/nvme/nvme0", "259:0")
    part = machine.partition(disk, "nvme0n1p3", "259:3")
    crypt = machine.add("dm-0", "devices/virtual/block", "253:0")
    volume = machine.add("dm-1", "devices/virtual/block", "253:1")
    (part / "holders/dm-0").symlink_to(crypt)
    (crypt / "holders/dm-1").symlink_to(volume)
    machine.mount("253:1", "/")
    assert machine.look("nvme0n1").holds_root


def test_what_others_hold_or_swap_on_is_in_use(machine: Machine) -> None:
    disk = machine.add("sdb", USB, "8:16")
    array = machine.add("md0", "devices/virtual/block", "9:0")
    (disk / "holders/md0").symlink_to(array)
    assert machine.look("sdb").mounted == ("held by md0",)


def test_write_protected_and_empty_readers_are_refused(machine: Machine) -> None:
    machine.add("sdb", USB, "8:16", ro="1")
    machine.add("sdc", USB.replace("2-1", "2-2"), "8:32", size="0")
    for name, reason in (("sdb", "write-protected"), ("sdc", "no medium")):
        with pytest.raises(Refused, match=reason):
            devices.check(machine.look(name), force=True)


def test_the_list_has_the_disks_and_not_what_is_made_of_them(machine: Machine) -> None:
    machine.add("sdb", USB, "8:16")
    machine.add("loop0", "devices/virtual/block", "7:0")
    machine.add("dm-0", "devices/virtual/block", "253:0")
    machine.add("sr0", SATA, "11:0")
    machine.add("mmcblk0", MMC, "179:0", device_type="MMC")
    machine.add("mmcblk0boot0", MMC, "179:8")
    assert [device.name for device in devices.every(machine.sys, machine.proc)] == ["mmcblk0", "sdb"]


def test_this_machine_s_disks_are_listed_for_people_and_for_programs() -> None:
    listed = json.loads(call("list", "--json").stdout)
    assert call("list").exit_code == 0
    for device in listed:
        assert device["size"] > 0
        assert set(device) == {
            "device", "model", "size", "transport", "removable", "read_only", "mounted", "holds_root",
        }  # fmt: skip


@needs_loop_devices
def test_a_real_mounted_device_is_refused_and_forced_it_is_unmounted(image: Path, tmp_path: Path) -> None:
    for device in loop(tmp_path / "device", 64):
        mounted = mounted_at(device, tmp_path / "mounted")
        refused = call("write", image, device, "--yes")
        assert refused.exit_code == 4
        assert str(mounted) in str(refused.exception)
        assert call("write", image, device, "--yes", "--force").exit_code == 0
        assert not mounted.is_mount()


@needs_loop_devices
@pytest.mark.parametrize("answer", ["", "yes\n", "loop\n"])
def test_any_other_answer_than_the_name_changes_nothing(image: Path, device: Path, answer: str) -> None:
    before = device.read_bytes()
    done = call("write", image, device, "--force", text=answer)
    assert done.exit_code == 3
    assert device.read_bytes() == before


@needs_loop_devices
def test_the_device_s_name_is_the_yes(image: Path, device: Path) -> None:
    assert call("write", image, device, "--force", text=f"{device.name}\n").exit_code == 0


def test_what_is_no_device_is_refused(image: Path, tmp_path: Path) -> None:
    assert call("write", image, tmp_path / "nothing").exit_code == 4
    assert call("write", image, image).exit_code == 4
    assert call("write", image, "/dev/null").exit_code == 4
