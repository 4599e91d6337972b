"""Small appliance images, and devices made of files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance_flash.cli import cli
from appliance_flash.errors import FlashError

MIB = 1 << 20
ESP_START, SLOT_START, TREE_START = 1 * MIB, 36 * MIB, 46 * MIB
LOADER = b"the loader " * 3000

needs_loop_devices = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop devices"
)


def run(*command: str, text: str = "") -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 MiB: an ESP of 35 MiB with a loader on it, a slot of unknown content, and a gap nobody reads."""
    folder = tmp_path_factory.mktemp("image")
    file = folder / "disk.raw"
    with file.open("wb") as opened:
        opened.truncate(48 * MIB)
    table = (
        f"label: gpt\nstart={ESP_START // 512}, size=34MiB, type=uefi, name=ESP\n"
        f"start={SLOT_START // 512}, size=4MiB, type=linux, name=slot\n"
    )
    run("sfdisk", "--quiet", str(file), text=table)
    run("mkfs.vfat", "-F", "32", "-s", "1", "--offset", str(ESP_START // 512), str(file), str(34 * 1024))
    (folder / "loader").write_bytes(LOADER)
    run("mmd", "-i", f"{file}@@{ESP_START}", "::EFI")
    run("mcopy", "-i", f"{file}@@{ESP_START}", str(folder / "loader"), "::EFI/loader.efi")
    with file.open("r+b") as opened:
        opened.seek(SLOT_START)
        opened.write(b"the slot's content\n" * 50_000)
    return file


@pytest.fixture
def packed(image: Path, tmp_path: Path) -> Path:
    """The same, compressed."""
    target = tmp_path / "disk.raw.zst"
    run("zstd", "-q", "-1", "-o", str(target), str(image))
    return target


def loop(file: Path, mebibytes: int, fill: bytes = b"") -> Iterator[Path]:
    """A device of that size; `fill` is what an earlier owner left everywhere."""
    with file.open("wb") as opened:
        opened.truncate(mebibytes * MIB)
        if fill:
            opened.write(fill * (mebibytes * MIB // len(fill)))
    name = run("losetup", "--find", "--show", str(file)).strip()
    yield Path(name)
    run("losetup", "--detach", name)


def mounted_at(device: Path, place: Path) -> Path:
    """The place where an empty file system on the device is mounted now."""
    place.mkdir()
    run("mkfs.ext4", "-q", str(device))
    run("mount", str(device), str(place))
    return place


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A device of 64 MiB that is not empty."""
    yield from loop(tmp_path / "device", 64, b"old data")


def call(*arguments: str | Path, text: str = "") -> Result:
    """Run the command line; `exit_code` is the program's exit status."""
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments], input=text)
    if isinstance(done.exception, FlashError):
        done.exit_code = done.exception.status
    return done
