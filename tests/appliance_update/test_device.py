"""Which slot, which disk: asserted, and refused with the reason when it cannot be told."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path

import pytest

from appliance_update.device import DeviceError, SlotState, inspect, refusals
from appliance_update.entries import entries
from appliance_update.gpt import TableError, read_table
from appliance_update.layout import Role
from appliance_update.updater import Failure, UpdateError
from tests.appliance_update.conftest import V1, V2, World, make_world
from tests.appliance_update.simulator import LAYOUT, add_disk, boot, make_build, relabel, write_table


def refused(world: World, reason: str) -> None:
    """The updater says why, and writes nothing."""
    world.publish(V2)
    with pytest.raises(UpdateError, match=reason) as caught:
        world.updater().run()
    assert caught.value.failure is Failure.DEVICE
    assert world.device.writes == 0
    assert f"t640_{V2}+3-0.efi" not in world.device.ukis()


def test_the_booted_slot_is_told_by_the_root_hash_of_the_kernel(world: World) -> None:
    device = inspect(world.device.host, world.device.layout)
    assert (device.booted.name, device.booted.version, device.booted.blessed) == ("a", V1, True)
    assert (device.standby.name, device.standby.state) == ("b", SlotState.EMPTY)
    assert device.disk_name == "nvme0n1"


def test_both_flavours_are_known_by_their_kernel_argument(quick: Path, key_directory: Path) -> None:
    world = make_world(quick, key_directory, "nixos")
    try:
        assert inspect(world.device.host, world.device.layout).flavour == "nixos"
        world.put(make_build(world.directory, V2, flavour="nixos"))
        world.updater().run()
        assert boot(world.device) == V2
    finally:
        world.server.close()


def test_a_system_without_a_root_hash_is_not_guessed_to_be_slot_a(world: World) -> None:
    (world.device.root / "proc/cmdline").write_text("root=/dev/sda1 quiet\n")
    refused(world, "started without a root hash")


@pytest.mark.parametrize("value", ["roothash=", "roothash=zz", "roothash=" + "A" * 64])
def test_a_root_hash_that_is_none_is_refused(world: World, value: str) -> None:
    (world.device.root / "proc/cmdline").write_text(f"{value}\n")
    refused(world, "root hash")


def test_a_root_hash_of_neither_slot_is_an_unknown_booted_slot(world: World) -> None:
    (world.device.root / "proc/cmdline").write_text(f"roothash={'ab' * 32}\n")
    refused(world, "booted slot is unknown")


def test_os_release_and_label_must_agree(world: World) -> None:
    (world.device.root / "etc/os-release").write_text("IMAGE_VERSION=2026.1.1\n")
    refused(world, "they must agree")


def test_a_missing_verity_device_is_refused(world: World) -> None:
    shutil.rmtree(world.device.root / "sys/devices/dm-0")
    refused(world, "does not lie on a verified slot")


def test_a_missing_slot_b_is_refused_with_the_partition_that_is_missing(world: World) -> None:
    number = world.device.layout.number(Role.DATA, "b")
    write_table(world.device.disk, [entry for entry in read_table(world.device.disk) if entry.number != number])
    refused(world, r"Slot b is incomplete: partition 5 \(40-data-b\) is missing")


def test_a_slot_of_another_size_is_refused(world: World) -> None:
    number = world.device.layout.number(Role.DATA, "b")
    entry = read_table(world.device.disk)[number - 1]
    relabel(world.device.disk, number, size=entry.size // 2)
    refused(world, "this disk was not made from this layout")


def test_a_second_disk_with_the_same_labels_is_refused_by_name(world: World) -> None:
    add_disk(world.device, "sda", world.device.disk)
    refused(world, r"/dev/sda carries the same partition labels")


def test_a_disk_with_other_labels_is_nobodys_business(world: World) -> None:
    disk = add_disk(world.device, "sda", world.device.disk)
    for entry in read_table(disk):
        relabel(disk, entry.number, label=f"other-{entry.number}")
    assert refusals(inspect(world.device.host, world.device.layout), world.device.host, world.device.layout) == []


def test_an_inactive_slot_that_is_mounted_is_refused(world: World) -> None:
    number = world.device.layout.number(Role.DATA, "b")
    with (world.device.root / "proc/self/mountinfo").open("a") as file:
        file.write(f"40 1 259:{number} / /mnt ro - erofs /dev/nvme0n1p{number} ro\n")
    refused(world, r"inactive slot's /dev/nvme0n1p5 is in use \(mounted\)")


def test_an_inactive_slot_below_another_mapping_is_refused(world: World) -> None:
    number = world.device.layout.number(Role.VERITY, "b")
    (world.device.root / f"sys/devices/nvme0n1/nvme0n1p{number}/holders/dm-9").mkdir()
    refused(world, "in use \\(dm-9\\)")


def test_an_esp_that_is_not_mounted_is_refused(world: World) -> None:
    (world.device.root / "proc/self/mountinfo").write_text("32 1 259:6 / /var rw - ext4 /dev/nvme0n1p6 rw\n")
    refused(world, "ESP of /dev/nvme0n1 is not mounted")


def test_the_esp_of_another_disk_is_not_taken_for_ours(world: World) -> None:
    (world.device.root / "proc/self/mountinfo").write_text("31 30 8:1 / /boot rw - vfat /dev/sda1 rw\n")
    refused(world, "is not mounted")


@pytest.mark.parametrize("twin", [f"t640_{V1}+2-1.efi", f"t640_{V1}+0-3.efi"])
def test_a_stale_twin_of_the_running_entry_goes_and_the_update_goes_on(world: World, twin: str) -> None:
    """A twin keeps the blessing from taking effect (systemd issue 33504); the loader says which one was booted."""
    (world.device.uki_directory / twin).write_bytes(b"half a kernel")
    world.publish(V2)
    world.updater().run()
    assert world.device.ukis() == [f"t640_{V1}.efi", f"t640_{V2}+3-0.efi"]
    assert ("repaired", V1) in world.events()


def forget_what_was_booted(world: World) -> None:
    for path in (world.device.root / "sys/firmware/efi/efivars").iterdir():
        path.unlink()


def test_without_the_loaders_word_a_twin_goes_only_when_it_is_a_copy(world: World) -> None:
    forget_what_was_booted(world)
    entry = world.device.uki_directory / f"t640_{V1}.efi"
    shutil.copy(entry, entry.with_name(f"t640_{V1}+2-1.efi"))
    world.settle()
    assert world.device.ukis() == [f"t640_{V1}.efi"]


def test_a_twin_of_which_nobody_knows_which_is_right_is_refused(world: World) -> None:
    forget_what_was_booted(world)
    (world.device.uki_directory / f"t640_{V1}+2-1.efi").write_bytes(b"another kernel")
    refused(world, "more than one boot entry")


def test_an_esp_that_the_kernel_made_read_only_is_refused_by_name(world: World) -> None:
    mounts = world.device.root / "proc/self/mountinfo"
    mounts.write_text(mounts.read_text().replace("/dev/nvme0n1p1 rw", "/dev/nvme0n1p1 ro"))
    refused(world, r"mounted read-only at /boot: its FAT is damaged")


def test_an_esp_that_cannot_be_listed_is_refused_by_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    world.publish(V2)
    monkeypatch.setattr("appliance_update.device.entries", damaged)
    with pytest.raises(UpdateError, match=r"boot entries on .* cannot be read") as caught:
        world.updater().run()
    assert caught.value.failure is Failure.DEVICE


def test_a_running_version_without_an_entry_is_refused(world: World) -> None:
    (world.device.uki_directory / f"t640_{V1}.efi").rename(world.device.uki_directory / "other.efi")
    refused(world, "has no boot entry")


def test_counters_are_read_from_file_names(world: World) -> None:
    for name in ("t640_2026.1.1+3.efi", "t640_2026.1.2+2-1.efi", "t640_2026.1.3+0-3.efi", "t640_x_y.efi", "notes.txt"):
        (world.device.uki_directory / name).write_bytes(b"")
    found = {entry.version: entry for entry in entries(world.device.esp, world.device.layout)}
    assert set(found) == {V1, "2026.1.1", "2026.1.2", "2026.1.3"}
    assert (found["2026.1.1"].left, found["2026.1.1"].done) == (3, None)
    assert (found["2026.1.2"].left, found["2026.1.2"].done) == (2, 1)
    assert found["2026.1.3"].spent
    assert found[V1].blessed


def test_the_backup_table_is_read_when_the_first_is_damaged(world: World) -> None:
    with world.device.disk.open("r+b") as file:
        file.seek(512)
        file.write(bytes(512))
    assert len(read_table(world.device.disk)) == 6


@pytest.mark.parametrize("position", [512 + 20, 1024 + 5])
def test_a_damaged_table_without_backup_is_an_error_with_a_reason(tmp_path: Path, world: World, position: int) -> None:
    disk = tmp_path / "disk"
    content = bytearray(world.device.disk.read_bytes()[:-512])
    content[position] ^= 1
    disk.write_bytes(bytes(content))
    with pytest.raises(TableError, match=str(disk)):
        read_table(disk)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\0" * 4096, b"EFI PART" * 1000])
def test_what_is_no_table_is_an_error(tmp_path: Path, content: bytes) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    with pytest.raises(TableError):
        read_table(disk)


def test_a_device_that_cannot_be_inspected_says_unknown_in_its_status(world: World) -> None:
    (world.device.root / "proc/cmdline").write_text("quiet\n")
    with pytest.raises(UpdateError):
        world.updater().run()
    updater = world.settle()
    assert {slot.state for slot in updater.store.status().slots.values()} == {"unknown"}
    assert "root hash" in updater.store.record.detail


def test_the_committed_layout_has_room_for_two_slots_on_a_16_gb_disk() -> None:
    from appliance_update.layout import load

    assert sum(partition.size for partition in load(LAYOUT).partition) < 15 * 10**9


def test_an_unmounted_foreign_device_does_not_break_the_inspection(world: World) -> None:
    broken = world.device.root / "sys/class/block/sdz"
    broken.symlink_to(world.device.root / "sys/devices/gone")
    assert inspect(world.device.host, world.device.layout).version == V1
    with pytest.raises(DeviceError):
        world.device.disk.unlink()
        inspect(world.device.host, world.device.layout)


def test_partition_uuids_of_a_slot_are_the_halves_of_its_root_hash() -> None:
    from appliance_update.device import verity_identity

    data, verity = verity_identity("0123456789abcdef" * 4)
    assert (data, verity) == (uuid.UUID("0123456789abcdef" * 2), uuid.UUID("0123456789abcdef" * 2))
    with pytest.raises(ValueError, match="64"):
        verity_identity("00")
