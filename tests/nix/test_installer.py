"""The installer, on real block devices made of files, and its choice among the disks of real machines."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.nix.files import ROOT

INSTALLER = ROOT / "image/installer/install-appliance"
MIB = 1024 * 1024
MINIMUM_MIB = 96

needs_loop_devices = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop devices"
)


@dataclass(frozen=True)
class Medium:
    """An installation medium: an image with a partition table, compressed, and its description."""

    folder: Path
    image: bytes

    def describe(self, **changes: str) -> None:
        facts = {
            "image": "t640_2026.11.0.raw.zst",
            "version": "2026.11.0",
            "size": str(len(self.image)),
            "sha256": hashlib.sha256(self.image).hexdigest(),
            "minimum_mib": str(MINIMUM_MIB),
        }
        text = "".join(f"{key}={value}\n" for key, value in (facts | changes).items() if value)
        (self.folder / "description").write_text(text)


@pytest.fixture(scope="module")
def raw_image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """70 MiB (not a multiple of what the installer writes at once) with an ESP and something in it."""
    file = tmp_path_factory.mktemp("image") / "raw"
    file.write_bytes(b"")
    os.truncate(file, 70 * MIB)
    table = "label: gpt\nstart=2048, size=65536, type=uefi, name=ESP\nstart=67584, size=65536, type=linux, name=slot\n"
    subprocess.run(["sfdisk", "--quiet", str(file)], input=table, text=True, check=True)
    content = bytearray(file.read_bytes())
    content[40 * MIB : 40 * MIB + 11] = b"the content"
    return bytes(content)


@pytest.fixture
def medium(tmp_path: Path, raw_image: bytes) -> Medium:
    folder = tmp_path / "images"
    folder.mkdir()
    packed = subprocess.run(["zstd", "-q", "-1", "--stdout"], input=raw_image, capture_output=True, check=True).stdout
    (folder / "t640_2026.11.0.raw.zst").write_bytes(packed)
    made = Medium(folder, raw_image)
    made.describe()
    return made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """A disk of 128 MiB with an old file system on it."""
    yield from _disk(tmp_path / "disk", 128)


def _disk(file: Path, mebibytes: int) -> Iterator[str]:
    with file.open("wb") as opened:
        opened.truncate(mebibytes * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "old-records", str(file)], check=True)
    device = subprocess.run(["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=True)
    name = device.stdout.strip()
    yield name
    subprocess.run(["losetup", "--detach", name], check=True)


def install(medium: Medium, disk: str, *options: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    command = ["bash", str(INSTALLER), "--images", str(medium.folder), "--disk", disk, "--stay-on", *options]
    return subprocess.run(command, input=answer, capture_output=True, text=True, check=False)


def first_bytes(disk: str, count: int) -> bytes:
    with Path(disk).open("rb") as file:
        return file.read(count)


@needs_loop_devices
def test_the_disk_carries_the_image_and_a_complete_partition_table(medium: Medium, disk: str) -> None:
    done = install(medium, disk, answer=f"{Path(disk).name}\n")
    assert done.returncode == 0, done.stderr
    assert f"Installed on {disk}" in done.stderr
    assert first_bytes(disk, 41 * MIB)[40 * MIB :][:11] == b"the content"
    verified = subprocess.run(["sfdisk", "--verify", disk], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    probed = subprocess.run(["blkid", "--probe", disk], capture_output=True, text=True, check=False).stdout
    assert "old-records" not in probed


@needs_loop_devices
def test_it_shows_what_will_be_lost_and_how_far_it_is(medium: Medium, disk: str) -> None:
    done = install(medium, disk, "--yes")
    assert "old-records" in done.stderr
    assert "Writing" in done.stderr
    assert "Checking" in done.stderr
    assert "100 %" in done.stderr


@needs_loop_devices
@pytest.mark.parametrize("answer", ["", "yes\n", "y\n", "sda\n"])
def test_any_other_answer_than_the_disk_s_name_changes_nothing(medium: Medium, disk: str, answer: str) -> None:
    before = first_bytes(disk, 4 * MIB)
    done = install(medium, disk, answer=answer)
    assert done.returncode == 3
    assert "Nothing was changed" in done.stderr
    assert first_bytes(disk, 4 * MIB) == before


@needs_loop_devices
def test_an_image_that_reads_back_differently_is_not_called_installed(medium: Medium, disk: str) -> None:
    medium.describe(sha256="0" * 64)
    done = install(medium, disk, "--yes")
    assert done.returncode == 4
    assert "read back" in done.stderr


@needs_loop_devices
@pytest.mark.parametrize("fault", ["truncated", "not zstd", "longer than announced"])
def test_a_damaged_medium_is_noticed(medium: Medium, disk: str, fault: str) -> None:
    packed = medium.folder / "t640_2026.11.0.raw.zst"
    if fault == "truncated":
        packed.write_bytes(packed.read_bytes()[:-20])
    elif fault == "not zstd":
        packed.write_bytes(b"\x00" * 4096)
    else:
        medium.describe(size=str(64 * MIB))
    done = install(medium, disk, "--yes")
    assert done.returncode == 4, done.stderr
    assert "Installed on" not in done.stderr


@needs_loop_devices
def test_a_disk_too_small_for_two_systems_is_refused_before_anything_is_asked(medium: Medium, tmp_path: Path) -> None:
    for small in _disk(tmp_path / "small", 80):
        before = first_bytes(small, 4 * MIB)
        done = install(medium, small, "--yes")
        assert done.returncode == 1
        assert "80 MiB" in done.stderr
        assert f"{MINIMUM_MIB} MiB" in done.stderr
        assert first_bytes(small, 4 * MIB) == before


@needs_loop_devices
def test_a_disk_in_use_is_refused(medium: Medium, disk: str, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", disk, str(mounted)], check=True)
    try:
        done = install(medium, disk, "--yes")
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    assert done.returncode == 1
    assert "in use" in done.stderr


@pytest.mark.parametrize("key", ["image", "version", "size", "sha256", "minimum_mib"])
def test_a_medium_without_its_description_says_so(medium: Medium, key: str) -> None:
    medium.describe(**{key: ""})
    done = install(medium, "/dev/nonexistent", "--yes")
    assert done.returncode == 1
    assert f"{key}=" in done.stderr or "not a disk" in done.stderr


def test_wrong_usage_has_its_own_exit_status() -> None:
    for arguments in (["--disk"], ["--frobnicate"], ["/dev/sda"]):
        done = subprocess.run(["bash", str(INSTALLER), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "Usage:" in done.stderr


# -- which disk ------------------------------------------------------------------------------------------------------


def a_disk(name: str, **changes: Any) -> dict[str, Any]:
    """One entry of `lsblk --json --bytes`, by default a 32 GB NVMe disk."""
    facts = {
        "name": name, "path": f"/dev/{name}", "type": "disk", "size": 32_000_000_000, "model": "Disk", "serial": "1",
        "tran": "nvme", "rm": False, "ro": False, "hotplug": False,
    }  # fmt: skip
    return facts | changes


def candidates(disks: list[dict[str, Any]], *boot_media: str) -> list[str]:
    script = 'source "$1"; shift; candidates "$@"'
    command = ["bash", "-c", script, "bash", str(INSTALLER), "8722055168", *boot_media]
    listed = json.dumps({"blockdevices": disks})
    said = subprocess.run(command, input=listed, capture_output=True, text=True, check=True)
    return said.stdout.split()


def test_the_internal_disk_is_taken_and_the_stick_is_not() -> None:
    stick = a_disk("sda", tran="usb", rm=True, hotplug=True)
    assert candidates([a_disk("nvme0n1"), stick]) == ["/dev/nvme0n1"]


def test_emmc_counts_as_internal_and_its_boot_areas_do_not() -> None:
    areas = [a_disk("mmcblk0boot0", size=4194304), a_disk("mmcblk0boot1"), a_disk("mmcblk0rpmb")]
    assert candidates([a_disk("mmcblk0", tran=None, size=15_800_000_000), *areas]) == ["/dev/mmcblk0"]


def test_the_medium_it_was_started_from_is_never_taken_even_if_it_looks_internal() -> None:
    assert candidates([a_disk("sda", tran="sata"), a_disk("sdb", tran="sata")], "/dev/sda") == ["/dev/sdb"]


@pytest.mark.parametrize(
    "unfit",
    [
        a_disk("sdc", tran="usb"),
        a_disk("sdc", hotplug=True),
        a_disk("sdc", rm=True),
        a_disk("sdc", ro=True),
        a_disk("sdc", size=4_000_000_000),
        a_disk("sr0", type="rom"),
        a_disk("loop0", type="loop"),
        a_disk("zram0", tran=None),
        a_disk("dm-0", tran=None),
    ],
)
def test_what_cannot_be_the_internal_disk_is_no_candidate(unfit: dict[str, Any]) -> None:
    assert candidates([unfit]) == []


def test_sizes_are_understood_as_numbers_and_as_text() -> None:
    assert candidates([a_disk("sda", tran="sata", size="32000000000")]) == ["/dev/sda"]
