"""Writing to real block devices made of files, sound ones and broken ones."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from appliance_flash import blockmap, devices, images, writing
from appliance_flash.errors import FlashError
from tests.appliance_flash.conftest import (
    ESP_START,
    LOADER,
    MIB,
    SLOT_START,
    call,
    loop,
    needs_loop_devices,
    run,
)

pytestmark = needs_loop_devices


def carries(device: Path, image: Path) -> bool:
    """Whether the slot is there byte for byte and the boot partition can be read."""
    slot = slice(SLOT_START, SLOT_START + 4 * MIB)
    command = ["mcopy", "-n", "-i", f"{device}@@{ESP_START}", "::EFI/loader.efi", "-"]
    loader = subprocess.run(command, capture_output=True, check=True).stdout
    return device.read_bytes()[slot] == image.read_bytes()[slot] and loader == LOADER


def boots(device: Path) -> bool:
    return b"EFI PART" in device.read_bytes()[512:1024]


def test_a_raw_image_without_a_map_is_written_and_verified(image: Path, device: Path) -> None:
    done = call("write", image, device, "--force", "--yes")
    assert done.exit_code == 0, done.output
    assert carries(device, image)


def test_a_compressed_image_with_its_map_beside_it_is_written(image: Path, packed: Path, device: Path) -> None:
    assert call("map", packed).exit_code == 0
    assert packed.with_name("disk.raw.bmap").exists()
    done = call("write", packed, device, "--force", "--yes", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["bytes"] == 48 * MIB
    assert facts["written"] < 10 * MIB
    assert carries(device, image)


def test_the_table_s_copy_goes_to_the_device_s_end(image: Path, device: Path) -> None:
    assert call("write", image, device, "--force", "--yes").exit_code == 0
    verified = subprocess.run(["sfdisk", "--verify", str(device)], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stderr
    assert device.read_bytes()[64 * MIB - 512 :][:8] == b"EFI PART"


def test_an_iso_is_written_to_the_last_byte_and_left_as_it_is(tmp_path: Path, device: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(bytes(3 * MIB) + b"end")
    iso = tmp_path / "medium.iso"
    run("xorriso", "-as", "mkisofs", "-quiet", "-output", str(iso), str(tree))
    assert call("write", iso, device, "--force", "--yes").exit_code == 0
    assert device.read_bytes()[: iso.stat().st_size] == iso.read_bytes()


def test_old_marks_are_gone_also_at_the_device_s_end(image: Path, device: Path) -> None:
    run("sfdisk", "--quiet", str(device), text="label: gpt\nsize=20MiB, name=state\n")
    assert call("write", image, device, "--force", "--yes").exit_code == 0
    assert b"s\0t\0a\0t\0e\0" not in device.read_bytes()[60 * MIB :]


def test_progress_is_told_for_writing_and_for_checking(image: Path, device: Path) -> None:
    told: dict[str, list[int]] = {}
    found = images.map_of(images.find(image), None)

    def progress(step: str, done: int, total: int) -> None:
        assert total == found.mapped_bytes
        told.setdefault(step, []).append(done)

    writing.write(images.find(image), found, devices.find(device), progress)
    assert set(told) == {"writing", "checking"}
    assert all(steps == sorted(steps) and steps[-1] == found.mapped_bytes for steps in told.values())


# -- what must not be written ------------------------------------------------------------------------------------------


def test_a_device_too_small_is_refused_before_the_first_byte(image: Path, tmp_path: Path) -> None:
    for small in loop(tmp_path / "small", 40, b"old data"):
        before = small.read_bytes()
        done = call("write", image, small, "--force", "--yes")
        assert done.exit_code == 4
        assert "Too small" in str(done.exception)
        assert small.read_bytes() == before


def test_the_map_of_another_image_is_refused_before_the_first_byte(image: Path, device: Path, tmp_path: Path) -> None:
    other, bmap = tmp_path / "other", tmp_path / "other.bmap"
    other.write_bytes(bytes(5 * MIB))
    assert call("map", other, "--output", bmap).exit_code == 0
    before = device.read_bytes()
    done = call("write", image, device, "--map", bmap, "--force", "--yes")
    assert done.exit_code == 5
    assert "of another version" in str(done.exception)
    assert device.read_bytes() == before


def test_a_map_of_the_same_size_with_other_content_is_noticed_and_the_device_does_not_boot(
    image: Path, device: Path, tmp_path: Path
) -> None:
    other, bmap = tmp_path / "other", tmp_path / "other.bmap"
    content = bytearray(image.read_bytes())
    content[SLOT_START + 100] ^= 1
    other.write_bytes(content)
    assert call("map", other, "--output", bmap).exit_code == 0
    done = call("write", image, device, "--map", bmap, "--force", "--yes")
    assert done.exit_code == 1
    assert "checksum" in str(done.exception)
    assert not boots(device)


@pytest.mark.parametrize("with_map", [True, False])
def test_a_truncated_image_is_noticed(packed: Path, device: Path, with_map: bool) -> None:
    if with_map:
        assert call("map", packed).exit_code == 0
    packed.write_bytes(packed.read_bytes()[:-400])
    before = device.read_bytes()
    done = call("write", packed, device, "--force", "--yes")
    if with_map:
        assert done.exit_code == 1
        assert not boots(device)
    else:
        assert done.exit_code == 5
        assert device.read_bytes() == before


def test_a_truncated_raw_image_beside_its_map_is_refused_before_the_first_byte(
    image: Path, device: Path, tmp_path: Path
) -> None:
    short = tmp_path / "disk.raw"
    short.write_bytes(image.read_bytes())
    assert call("map", short).exit_code == 0
    short.write_bytes(image.read_bytes()[: 40 * MIB])
    before = device.read_bytes()
    assert call("write", short, device, "--force", "--yes").exit_code == 5
    assert device.read_bytes() == before


# -- devices that are broken -------------------------------------------------------------------------------------------


def test_a_device_that_fails_while_it_is_written_is_told(image: Path, tmp_path: Path) -> None:
    # On a file system that is full before the device is, writes fail as those of a dying stick do.
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", str(mounted))
    try:
        for dying in loop(mounted / "device", 64):
            done = call("write", image, dying, "--force", "--yes")
            assert done.exit_code == 1
            assert "failed" in str(done.exception) or "read" in str(done.exception)
    finally:
        run("umount", "--lazy", str(mounted))


def test_a_device_that_keeps_something_else_than_was_written_is_noticed(image: Path, device: Path) -> None:
    found = images.map_of(images.find(image), None)
    run("bmaptool", "copy", "--nobmap", str(image), str(device))
    target = devices.find(device)
    writing.verify(found, target, lambda step, done, total: None)
    with device.open("r+b") as file:
        file.seek(SLOT_START + 4000)
        file.write(b"\x01")
    with pytest.raises(FlashError, match="read back"):
        writing.verify(found, target, lambda step, done, total: None)


def test_a_device_that_ends_before_it_says_is_noticed(image: Path, tmp_path: Path) -> None:
    found = images.map_of(images.find(image), None)
    for small in loop(tmp_path / "small", 40):
        with pytest.raises(FlashError, match=r"ends at byte|read back"):
            writing.verify(found, devices.find(small), lambda step, done, total: None)


def test_an_empty_image_is_refused(tmp_path: Path, device: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert call("write", empty, device, "--force", "--yes").exit_code == 5


def test_a_large_range_is_told_in_pieces(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as opened:
        opened.truncate(130 * MIB)
    with file.open("rb") as opened:
        spans = blockmap.make(opened, 130 * MIB).spans
    assert [(span.last - span.first + 1) * blockmap.BLOCK for span in spans] == [64 * MIB, 64 * MIB, 2 * MIB]
