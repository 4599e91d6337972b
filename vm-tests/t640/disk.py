"""Disks: a new appliance's, assembled from a version's published files, and throw-away copies of it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from t640 import layout as layouts
from t640 import recovery, toolroot
from t640.artifacts import Artifacts
from t640.errors import Missing, RigError
from t640.paths import cache_directory, locked

SIZE = "16G"
"""The T640's smallest flash. The file is sparse."""


def assemble(artifacts: Artifacts, rescue: Path | None = None, size: str = SIZE) -> Path:
    """The disk a new appliance leaves the bench with: the ESP (with a recovery, if `rescue` is one) and slot A.

    Kept beside the version's files. `size` is repart's `--size=`; `auto` is no more than the partitions take.
    """
    stem = "disk" if size == SIZE else f"disk-{size}"
    disk = artifacts.directory / (f"{stem}-{rescue.parent.name}.raw" if rescue else f"{stem}.raw")
    with locked("disk"):  # a second one in its place would pull the first from under the machine that runs on it
        if not disk.exists():
            _assemble(artifacts, rescue, size, disk)
    return disk


def _assemble(artifacts: Artifacts, rescue: Path | None, size: str, disk: Path) -> None:
    layout = layouts.load()
    with tempfile.TemporaryDirectory(dir=cache_directory(), prefix="disk-") as scratch:
        work = Path(scratch)
        definitions = work / "repart.d"
        definitions.mkdir()
        (work / "loader.conf").write_text(str(layout.esp["loader_conf_text"]))
        files = {name: toolroot.inside(getattr(artifacts, name)) for name in ("data", "verity", "uki", "loader")}
        source = layouts.SlotSource(
            version=artifacts.version,
            data_uuid=artifacts.data_uuid,
            verity_uuid=artifacts.verity_uuid,
            loader_conf=toolroot.inside(work / "loader.conf"),
            recovery=toolroot.inside(rescue) if rescue else None,
            recovery_version=recovery.version(),
            **files,
        )
        for name, text in layouts.disk_definitions(layout, source).items():
            (definitions / name).write_text(text)
        partial = work / "disk.raw"
        toolroot.run(
            ["systemd-repart", "--empty=create", f"--size={size}", "--dry-run=no", "--offline=yes", "--seed=random",
             f"--sector-size={layout.raw['image']['sector_size']}", "--definitions", str(toolroot.inside(definitions)),
             str(toolroot.inside(partial))],
        )  # fmt: skip
        partial.rename(disk)


def overlay(base: Path, target: Path) -> Path:
    """A qcow2 that keeps what a machine writes, over a base that stays as it is. Raises `RigError`."""
    _qemu_img("create", "-q", "-f", "qcow2", "-F", _format(base), "-b", str(base.resolve()), str(target))
    return target


def convert(source: Path, target: Path) -> Path:
    """A raw file as qcow2 (savevm wants the firmware's variables in one)."""
    _qemu_img("convert", "-f", "raw", "-O", "qcow2", str(source), str(target))
    return target


def _format(path: Path) -> str:
    with path.open("rb") as handle:
        return "qcow2" if handle.read(4) == b"QFI\xfb" else "raw"


def _qemu_img(*arguments: str) -> None:
    program = shutil.which("qemu-img")
    if program is None:
        raise Missing("qemu-img is not installed: apt-get install qemu-utils.")
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RigError(f"qemu-img {' '.join(arguments)} failed: {done.stderr.strip()}")
