"""This repository's distributions as they lie on the appliance: wheels unpacked, units and configuration in place."""

from __future__ import annotations

import configparser
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from t640.errors import RigError
from t640.paths import LAYOUT_MARK, REPOSITORY, cache_directory, distributions

DIST_PACKAGES = "usr/lib/python3/dist-packages"
"""Where Debian keeps pure Python modules for every minor version."""

_IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", "*.pyc")
_SCRIPT = """#!/usr/bin/python3
import sys

from {module} import {function}

sys.exit({function}())
"""
_MAPPING = (
    ("systemd", "usr/lib/systemd/system"),
    ("sysusers.d", "usr/lib/sysusers.d"),
    ("tmpfiles.d", "usr/lib/tmpfiles.d"),
    ("dbus-1", "usr/share/dbus-1/system.d"),
    ("polkit-1", "usr/share/polkit-1/rules.d"),
    ("etc", "etc/{name}"),
    ("share", "usr/share/{name}"),
)
"""Folder of a distribution → place in the image; the same list the Nix packages follow."""


def content_key(paths: Iterable[Path]) -> str:
    """A hash over names and contents of files and folders, without byte code and build leavings."""
    digest = hashlib.sha256()
    for top in paths:
        for path in sorted(_files(top)):
            digest.update(f"{path.relative_to(top.parent)}\0{path.stat().st_mode & 0o111:o}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(top: Path) -> Iterator[Path]:
    if top.is_file():
        yield top
        return
    for path in top.rglob("*"):
        parts = path.relative_to(top).parts
        left_over = any(part in ("__pycache__", "build", "dist") or part.endswith(".egg-info") for part in parts)
        if path.is_file() and not left_over:
            yield path


def build_wheel(distribution: Path) -> Path:
    """The distribution's wheel, from the cache when its sources are unchanged. Raises `RigError`."""
    sources = [path for path in (distribution / "src", distribution / "pyproject.toml") if path.exists()]
    folder = cache_directory() / "wheels" / f"{distribution.name}-{content_key(sources)[:12]}"
    found = list(folder.glob("*.whl"))
    if found:
        return found[0]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # A copy: setuptools leaves build/ and egg-info beside the sources.
        copy = Path(scratch) / distribution.name
        shutil.copytree(distribution, copy, ignore=_IGNORED)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
                   "--wheel-dir", str(folder), str(copy)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RigError(f"{distribution.name} does not build as a wheel:\n{done.stderr[-2000:]}")
    return next(folder.glob("*.whl"))


def unpack_wheel(wheel: Path, tree: Path) -> None:
    """Install a pure Python wheel into an image tree, with console scripts that name /usr/bin/python3."""
    target = tree / DIST_PACKAGES
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
        entry_points = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        texts = [archive.read(name).decode() for name in entry_points]
    for text in texts:
        parser = configparser.ConfigParser(delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(text)
        for name, reference in parser["console_scripts"].items() if "console_scripts" in parser else ():
            module, _, function = reference.partition(":")
            script = tree / "usr/bin" / name
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_text(_SCRIPT.format(module=module.strip(), function=function.strip()))
            script.chmod(0o755)


def copy_files(distribution: Path, tree: Path) -> None:
    """Put the distribution's units, users, policies and default configuration where the system looks for them."""
    for folder, place in _MAPPING:
        source = distribution / folder
        if source.is_dir():
            target = tree / place.format(name=distribution.name)
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=_IGNORED)


def enabled_units(distribution: Path) -> list[str]:
    """The units that say where they belong ([Install]); templates are left to whoever instantiates them."""
    units = []
    for path in sorted((distribution / "systemd").glob("*.*")):
        if path.is_file() and "@." not in path.name and "\n[Install]" in path.read_text():
            units.append(path.name)
    return units


def install_initrd(tree: Path) -> None:
    """What the updater wants in the initrd: the program that demotes a slot which no longer opens, and who calls it."""
    source = REPOSITORY / "agent/appliance-update/initrd"
    shutil.copytree(source / "emergency.service.d", tree / "usr/lib/systemd/system/emergency.service.d")
    program = tree / "usr/lib/appliance-update/appliance-demote"
    program.parent.mkdir(parents=True)
    shutil.copy(source / "appliance-demote", program)
    program.chmod(0o755)


def install_all(tree: Path) -> None:
    """Everything of this repository that runs on the appliance, into `tree`, with a preset that enables its units."""
    preset = []
    for distribution in distributions():
        unpack_wheel(build_wheel(distribution), tree)
        copy_files(distribution, tree)
        preset += [f"enable {unit}\n" for unit in enabled_units(distribution)]
    folder = tree / "usr/lib/systemd/system-preset"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "10-distributions.preset").write_text("".join(preset))
    (folder / "99-rest.preset").write_text("disable *\n")
    layout = tree / "usr/share/appliance-update" / LAYOUT_MARK
    layout.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / "image" / LAYOUT_MARK, layout)
