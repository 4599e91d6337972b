"""An installation medium with a real, small appliance image on it, and disks made of files."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance_flash import blockmap

ROOT = Path(__file__).parents[2]
INSTALLER = ROOT / "image/installer/install-appliance"
MIB = 1 << 20
MINIMUM_MIB = 120
LOADER = b"MZ the loader\n" * 4000
UKI = b"MZ kernel, initrd and all\n" * 100_000
ESP_START, ESP_MIB, SLOT_START = 1 * MIB, 40, 41 * MIB

needs_loop_devices = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop devices"
)


def run(*command: str, text: str = "") -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


@dataclass
class Medium:
    """What lies on an installation medium."""

    folder: Path
    image: Path
    facts: dict[str, str] = field(default_factory=dict)

    def describe(self, **changes: str) -> None:
        text = "".join(f"{key}={value}\n" for key, value in (self.facts | changes).items() if value)
        (self.folder / "description").write_text(text)

    def seed(self, **files: str) -> None:
        """Lay site files on the medium; a dot in a name is written as `_`."""
        folder = self.folder.parent / "appliance-seed"
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 MiB: an ESP with loader and UKI, a slot with content, and space that nobody reads."""
    folder = tmp_path_factory.mktemp("image")
    file = folder / "raw"
    with file.open("wb") as opened:
        opened.truncate(64 * MIB)
    table = (
        f"label: gpt\nstart={ESP_START // 512}, size={ESP_MIB}MiB, type=uefi, name=ESP\n"
        f"start={SLOT_START // 512}, size=8MiB, type=linux, name=t640_2026.11.0\n"
    )
    run("sfdisk", "--quiet", str(file), text=table)
    run("mkfs.vfat", "-F", "32", "-s", "1", "--offset", str(ESP_START // 512), str(file), str(ESP_MIB * 1024))
    (folder / "loader").write_bytes(LOADER)
    (folder / "uki").write_bytes(UKI)
    at = f"{file}@@{ESP_START}"
    run("mmd", "-i", at, "::EFI", "::EFI/systemd", "::EFI/Linux")
    run("mcopy", "-i", at, str(folder / "loader"), "::EFI/systemd/systemd-bootx64.efi")
    run("mcopy", "-i", at, str(folder / "uki"), "::EFI/Linux/t640_2026.11.0+3.efi")
    with file.open("r+b") as opened:
        opened.seek(SLOT_START)
        opened.write(b"the slot's content\n" * 50_000)
    return file


@pytest.fixture
def medium(tmp_path: Path, image: Path) -> Medium:
    folder = tmp_path / "medium/images"
    folder.mkdir(parents=True)
    (folder / "t640.raw.zst").write_bytes(
        subprocess.run(["zstd", "-q", "-1", "-c", str(image)], capture_output=True, check=True).stdout
    )
    with image.open("rb") as file:
        text = blockmap.make(file, image.stat().st_size).to_xml()
    (folder / "t640.bmap").write_text(text)
    facts = {
        "image": "t640.raw.zst", "map": "t640.bmap", "map_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "version": "2026.11.0", "minimum_mib": str(MINIMUM_MIB),
        "sector_size": "512",
    }  # fmt: skip
    made = Medium(folder, image, facts)
    made.describe()
    return made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """A disk of 160 MiB with an old file system on it."""
    yield from a_disk(tmp_path / "disk", 160)


def a_disk(file: Path, mebibytes: int) -> Iterator[str]:
    with file.open("wb") as opened:
        opened.truncate(mebibytes * MIB)
    run("mkfs.ext4", "-q", "-F", "-L", "old-records", str(file))
    name = run("losetup", "--find", "--show", "--partscan", str(file)).strip()
    yield name
    run("losetup", "--detach", name)


def install(medium: Medium, disk: str, *options: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    command = ["bash", str(INSTALLER), "--images", str(medium.folder), "--disk", disk, "--stay-on", *options]
    return subprocess.run(command, input=answer, capture_output=True, text=True, check=False)


def candidates(sys: Path, minimum: int, *boot_media: str) -> tuple[list[str], str]:
    """The disks a machine with that /sys would be offered, and what is said of the others."""
    return sourced(sys, 'candidates "$@"', str(minimum), *boot_media)


def sourced(sys: Path, script: str, *arguments: str) -> tuple[list[str], str]:
    """Run a line of shell with the installer's functions at hand; output in words, and errors."""
    command = ["bash", "-c", f'source "$1"; shift; {script}', "bash", str(INSTALLER), *arguments]
    done = subprocess.run(
        command, env=os.environ | {"INSTALLER_SYS": str(sys)}, capture_output=True, text=True, check=True
    )
    return done.stdout.split(), done.stderr


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str, text: str) -> None:
    """Put a program of this name, a line of shell, before the real one."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / program).write_text(f"#!/bin/bash\n{text}\n")
    (programs / program).chmod(0o755)
    if not os.environ["PATH"].startswith(f"{programs}:"):
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
