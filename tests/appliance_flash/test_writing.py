"""Writing to real block devices made of files, sound ones and broken ones."""

from __future__ import annotations

import dataclasses
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance_flash import blockmap, devices, images, programs, writing
from appliance_flash.cli import main
from appliance_flash.errors import FlashError, Missing, Refused
from tests.appliance_flash.conftest import (
    ESP_START,
    LOADER,
    MIB,
    SLOT_START,
    call,
    loop,
    mounted_at,
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


# -- nothing is written before it can be finished ----------------------------------------------------------------------


@pytest.mark.parametrize("program", ["bmaptool", "wipefs", "sfdisk"])
def test_a_missing_program_is_told_before_the_first_byte(
    image: Path, device: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    real, before = shutil.which, device.read_bytes()
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None if name == program else real(name, path=path))
    assert call("write", image, device, "--force", "--yes").exit_code == 6
    assert device.read_bytes() == before


def test_who_may_not_flush_the_device_is_told_before_the_first_byte(
    image: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    before = device.read_bytes()
    monkeypatch.setattr("fcntl.ioctl", refuse)
    assert call("write", image, device, "--force", "--yes").exit_code == 4
    assert device.read_bytes() == before


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), Missing("gone"), subprocess.TimeoutExpired("sfdisk", 120)]
)
def test_whatever_fails_after_the_first_byte_says_so(
    image: Path, device: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(writing, "_finish", fail)
    assert call("write", image, device, "--force", "--yes").exit_code == 1
    assert not boots(device)


def test_a_disk_that_came_under_the_same_name_while_the_question_was_open_is_left_alone(
    image: Path, device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious" * (64 * MIB // 8))

    def change(*_: object) -> None:
        run("losetup", "--detach", str(device))
        run("losetup", str(device), str(other))

    monkeypatch.setattr("appliance_flash.cli._ask", change)
    assert call("write", image, device, "--force").exit_code == 4
    assert other.read_bytes() == b"precious" * (64 * MIB // 8)


def test_another_disk_is_neither_written_to_nor_cleared(image: Path, device: Path) -> None:
    before = device.read_bytes()
    chosen = dataclasses.replace(devices.find(device), sequence="another")
    with pytest.raises(Refused, match="another disk"):
        writing.write(images.find(image), images.map_of(images.find(image), None), chosen, lambda *_: None)
    writing._spoil(chosen)
    assert device.read_bytes() == before


def test_a_device_that_something_unseen_holds_is_refused(image: Path, device: Path) -> None:
    before = device.read_bytes()
    with devices.held(devices.find(device)):
        assert call("write", image, device, "--force", "--yes").exit_code == 4
    assert device.read_bytes() == before


def test_a_device_with_other_sectors_is_refused(image: Path, tmp_path: Path) -> None:
    file = tmp_path / "large-sectors"
    file.write_bytes(bytes(64 * MIB))
    name = run("losetup", "--sector-size", "4096", "--find", "--show", str(file)).strip()
    try:
        assert call("write", image, name, "--force", "--yes").exit_code == 4
    finally:
        run("losetup", "--detach", name)


def test_an_image_on_the_device_itself_is_refused(image: Path, tmp_path: Path) -> None:
    for device in loop(tmp_path / "device", 128):
        mounted = mounted_at(device, tmp_path / "mounted")
        run("cp", str(image), str(mounted / "disk.raw"))
        done = call("write", mounted / "disk.raw", device, "--yes", "--force")
        assert mounted.is_mount()
        run("umount", str(mounted))
        assert done.exit_code == 4
        assert "lies on" in str(done.exception)


@pytest.mark.parametrize("part", ["nothing", "the first block", "what matters"])
def test_a_map_that_leaves_out_what_matters_is_refused(image: Path, device: Path, tmp_path: Path, part: str) -> None:
    found = images.map_of(images.find(image), None)
    spans = {"nothing": (), "the first block": found.spans[1:], "what matters": found.spans[:1]}[part]
    bmap, before = tmp_path / "other.bmap", device.read_bytes()
    bmap.write_text(dataclasses.replace(found, spans=spans).to_xml())
    assert call("write", image, device, "--map", bmap, "--force", "--yes").exit_code == 5
    assert device.read_bytes() == before


def test_a_map_of_holes_beside_an_image_is_not_believed(image: Path, packed: Path) -> None:
    raw = packed.with_name("copy.raw")
    run("cp", "--sparse=always", str(image), str(raw))
    for file in (raw, packed):
        file.with_name(file.name.removesuffix(".zst") + ".bmap").write_text(run("bmaptool", "create", str(raw)))
        assert images.map_of(images.find(file), None) == images.map_of(images.find(image), None)


def test_an_image_that_nothing_starts_from_is_refused(image: Path, device: Path, tmp_path: Path) -> None:
    packed, before = tmp_path / "disk.raw.xz", device.read_bytes()
    packed.write_bytes(lzma.compress(image.read_bytes(), preset=0))
    done = call("write", packed, device, "--force", "--yes")
    assert done.exit_code == 5
    assert "unpack it first" in str(done.exception)
    assert device.read_bytes() == before


def test_no_room_to_unpack_is_told_before_the_first_byte(
    packed: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "_unpack", full)
    assert call("write", packed, device, "--force", "--yes").exit_code == 5


# -- the first MiB comes last ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
def test_until_all_else_has_been_read_back_nothing_starts_from_the_device(
    image: Path, packed: Path, device: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    seen, real = [], writing._write_head

    def look(head: bytes, target: devices.Device) -> None:
        seen.append(device.read_bytes())
        real(head, target)

    monkeypatch.setattr(writing, "_write_head", look)
    assert call("write", packed if compressed else image, device, "--force", "--yes").exit_code == 0
    assert b"EFI PART" not in seen[0][:MIB]
    assert seen[0][SLOT_START : SLOT_START + MIB] == image.read_bytes()[SLOT_START : SLOT_START + MIB]
    assert carries(device, image)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_is_stopped_clears_the_device_and_its_scratch_folder(
    image: Path, device: Path, tmp_path: Path, number: signal.Signals
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = (
        "import os, signal, sys\nfrom appliance_flash import cli, writing\n"
        f"writing._sectors_written = lambda device: os.kill(os.getpid(), {int(number)}) or 0\nsys.exit(cli.main())"
    )
    command = [sys.executable, "-c", code, "write", str(image), str(device), "--force", "--yes", "--json"]
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ | {"TMPDIR": str(scratch)})
    assert done.returncode == 130, done.stderr
    assert json.loads(done.stdout)["status"] == 130
    assert not any(device.read_bytes()[:MIB])
    assert list(scratch.iterdir()) == []


def test_no_bmaptool_outlives_this_program(image: Path, device: Path, tmp_path: Path) -> None:
    tool, note = tmp_path / "bmaptool", tmp_path / "pid"
    tool.write_text(f"#!/bin/sh\necho $$ > {note}.new; mv {note}.new {note}\nexec sleep 60\n")
    tool.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = [sys.executable, "-m", "appliance_flash", "write", str(image), str(device), "--force", "--yes"]
    with subprocess.Popen(command, env=os.environ | {"PATH": path}, stderr=subprocess.DEVNULL) as process:
        wait_for(note.exists)
        process.kill()
    wait_for(lambda: not running(int(note.read_text())))


def running(number: int) -> bool:
    stat = Path(f"/proc/{number}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_table_that_is_not_on_the_device_at_the_end_is_noticed(
    image: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = programs.run

    def careless(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
        if arguments[0] == "sfdisk":
            return subprocess.CompletedProcess(arguments, 0)
        return real(arguments)

    monkeypatch.setattr(programs, "run", careless)
    assert call("write", image, device, "--force", "--yes").exit_code == 1
    assert not boots(device)


def test_only_partitions_are_wiped_not_the_boot_areas_of_an_emmc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, nodes, wiped = tmp_path / "block/mmcblk0", tmp_path / "dev", []
    nodes.mkdir()
    for name in ("mmcblk0p1", "mmcblk0boot0", "mmcblk0boot1"):
        (entry / name).mkdir(parents=True)
        (nodes / name).touch()
    (nodes / "mmcblk0").touch()
    (entry / "mmcblk0p1/partition").write_text("1\n")
    monkeypatch.setattr(devices, "SYS", tmp_path)

    def wipe(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
        wiped.append(Path(arguments[-1]).name)
        return subprocess.CompletedProcess(arguments, 0)

    monkeypatch.setattr(programs, "run", wipe)
    writing._forget(devices.Device(nodes / "mmcblk0", "", 1, "emmc", True, False, (), "179:0"))
    assert wiped == ["mmcblk0p1", "mmcblk0"]


def test_an_error_is_told_to_programs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    monkeypatch.setattr(sys, "argv", ["appliance-flash", "map", str(empty), "--json"])
    assert main() == 5
    assert json.loads(capsys.readouterr().out) == {"error": f"{empty} is empty.", "status": 5}
