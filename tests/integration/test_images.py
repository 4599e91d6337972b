"""What the stories boot is what they say: releases that differ in their fault and in nothing else.

Whatever else differed between a good release and a bad one could be what a story really shows, and what devices fetch
for nothing. It comes before the stories, whose time then is theirs alone: here their images are built.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from appliance_update.uki import os_release
from t640 import layout as layouts
from t640 import recovery, variants
from t640.image import build
from t640.releases import recipe, version
from t640.wheels import DIST_PACKAGES

pytestmark = pytest.mark.vm

ITS_NAME = "usr/lib/os-release"
ITS_TIME = "usr/share/appliance-update/build-time"


@contextlib.contextmanager
def opened(slot: Path, directory: Path) -> Iterator[Path]:
    """A slot's filesystem, read-only."""
    if "erofs" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel does not mount erofs, which the image's root is")
    directory.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", str(slot), str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def content(tree: Path) -> dict[str, str]:
    """What every file of a tree is: a link's target, or mode, owner and digest."""
    found = {}
    for path in tree.rglob("*"):
        status = path.lstat()
        if path.is_symlink():
            what = str(path.readlink())
        elif path.is_file():
            with path.open("rb") as file:
                what = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            continue
        found[str(path.relative_to(tree))] = f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {what}"
    return found


def faulty(variant: str, path: str) -> bool:
    """Whether a file is part of a variant's fault."""
    fault = variants.get(variant)
    modules = [f"{DIST_PACKAGES}/{patch.module}".lstrip("/") for patch in fault.patches]
    compiled = [f"{Path(module).parent}/__pycache__/{Path(module).stem}.*.pyc" for module in modules]
    patterns = [*modules, *compiled, *fault.files, *(each.lstrip("/") for each in fault.removed)]
    return any(fnmatch(path, pattern) for pattern in patterns)


@pytest.mark.parametrize(
    ("variant", "step"),
    [
        ("bad-health", 1), ("missing-key", 1), ("no-python", 1), ("blind-updater", 1), ("pilot-agent", 1),
        ("good", 2), ("blind-updater", 3), ("good", 4),
    ],
)  # fmt: skip
def test_a_release_differs_from_a_good_one_in_its_fault_its_name_and_its_time_alone(
    tmp_path: Path, variant: str, step: int
) -> None:
    good, other = build(recipe(version(1))), build(recipe(version(step), variant))
    with opened(good.data, tmp_path / "good") as one, opened(other.data, tmp_path / "other") as two:
        before, after = content(one), content(two)
    differs = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    fault = {path for path in differs if faulty(variant, path)}
    assert differs - fault <= {ITS_TIME, ITS_NAME}
    assert (ITS_NAME in differs) == (step != 1)
    assert bool(fault) == (variant != "good")


def test_the_recovery_is_no_version_and_has_room_beside_three_of_them() -> None:
    """Three: what runs, what stands by, and what has just landed."""
    image, layout = recovery.build(), layouts.load()
    assert os_release(image)["IMAGE_ID"] == f"{layout.image_id}-recovery"
    good = build(recipe(version(0)))
    needed = sum(path.stat().st_size for path in (image, *[good.uki] * 3, *[good.loader] * 2))
    (esp,) = (each for each in layout.raw["partition"] if each["role"] == "esp")
    assert needed < int(esp["size_mib"]) << 20
