"""The recovery of the stand-in: a unified kernel image with a whole small system in its initrd, and no Python in it.

It has a version of its own, and is built and kept apart from the images: a good recovery is not replaced lightly.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from t640 import layout as layouts
from t640 import lifeline, toolroot, wheels
from t640.apt import STABLE, system_mirror
from t640.errors import RigError
from t640.image import KERNELS
from t640.paths import PACKAGE, REPOSITORY, cache_directory, locked

PROJECT = PACKAGE / "mkosi-recovery"
SHARED = PACKAGE / "mkosi/mkosi.extra"
_SHARED_FILES = (
    "usr/lib/systemd/network/20-wired.network",
    "usr/lib/systemd/timesyncd.conf.d/10-appliance.conf",
    "usr/lib/systemd/resolved.conf.d/10-appliance.conf",
    "usr/lib/systemd/system.conf.d/10-appliance.conf",
    "usr/lib/sysctl.d/71-memory-dumps.conf",
)


def version() -> str:
    """The version of the recovery that goes with this repository."""
    return (REPOSITORY / "VERSION").read_text().strip()


def build(kernel: str = "cloud", detail: Callable[[str], None] | None = None) -> Path:
    """The recovery, built or from the cache. Raises `RigError` with the end of mkosi's output."""
    with locked("image"):
        folder = cache_directory() / "recovery" / f"{version()}-{_key(kernel)}"
        if not (folder / "complete").exists():
            _build(folder, kernel, detail)
    return folder / "recovery.efi"


def _key(kernel: str) -> str:
    inputs = [PROJECT, lifeline.SOURCE, layouts.LAYOUT_FILE, PACKAGE / "recovery.py", PACKAGE / "lifeline.py",
              *(SHARED / name for name in _SHARED_FILES)]  # fmt: skip
    digest = hashlib.sha256(wheels.content_key(inputs).encode())
    digest.update(json.dumps([kernel, lifeline.files()]).encode())
    return digest.hexdigest()[:16]


def _build(folder: Path, kernel: str, detail: Callable[[str], None] | None) -> None:
    root = toolroot.ensure()
    for left_over in (root / "var/tmp").iterdir():
        shutil.rmtree(left_over, ignore_errors=True)
    project = _stage(kernel)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arguments = ["mkosi", "--directory", str(toolroot.inside(project)), "--image-version", version(),
                 "--release", STABLE, "--force", "build"]  # fmt: skip
    toolroot.run(arguments, root=root, log=folder / "mkosi.log", detail=detail)
    found = [path for path in (project / "mkosi.output").glob("*.efi") if path.is_file() and not path.is_symlink()]
    if len(found) != 1:
        raise RigError(f"mkosi made {len(found)} recoveries in {project / 'mkosi.output'}, one was expected.")
    shutil.copy(found[0], folder / "recovery.efi")
    shutil.rmtree(project / "mkosi.output")
    (folder / "complete").touch()
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other)


def _stage(kernel: str) -> Path:
    work = cache_directory() / "mkosi"
    project = work / f"recovery-{kernel}"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(PROJECT, project, symlinks=True)
    layout, mirror = layouts.load(), system_mirror()
    prefix = toolroot.inside(work) / f"recovery-{kernel}"
    for name in ("mkosi.cache", "mkosi.packages"):
        (work / f"recovery-{kernel}-{name}").mkdir(parents=True, exist_ok=True)
    (project / "mkosi.output").mkdir()
    command_line = ["console=ttyS0", "console=tty0", "quiet", "systemd.show_status=no",
                    "systemd.getty_auto=no", *layout.command_line]  # fmt: skip
    (project / "mkosi.conf.d").mkdir()
    (project / "mkosi.conf.d/50-rig.conf").write_text(
        f"[Distribution]\nMirror={mirror.uri}\n\n"
        f"[Output]\nImageId={layout.image_id}-recovery\n\n"
        f"[Content]\nPackages={KERNELS[kernel]}\nKernelCommandLine={' '.join(command_line)}\n\n"
        f"[Build]\nCacheDirectory={prefix}-mkosi.cache\nPackageCacheDirectory={prefix}-mkosi.packages\n"
    )
    _write(project / "mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources", mirror.sources_file(STABLE))
    _write(project / "mkosi.sandbox/etc/apt/apt.conf.d/90-rig", mirror.settings_file())
    _fill_tree(project / "mkosi.extra")
    return project


def _fill_tree(tree: Path) -> None:
    for name in _SHARED_FILES:
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SHARED / name, target)
    lifeline.install(tree, units=("appliance-status.socket",), consoles=("tty1", "ttyS0"))
    shutil.copytree(lifeline.SOURCE / "recovery", tree / "usr/lib/systemd/system", dirs_exist_ok=True)
    for name, text in lifeline.files().items():
        _write(tree / name, text)
    # What is past for certain: in the recovery nothing else says so before a time server has answered.
    _write(tree / "usr/share/appliance-update/build-time", f"{int(time.time())}\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
