"""Our packages as an image has them, with a variant's fault put in, and programs run from there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from t640 import variants
from t640.paths import REPOSITORY

SOURCES = ("agent/appliance-protocol/src", "agent/compliance-agent/src", "agent/appliance-update/src")


def installed(directory: Path, variant: str) -> Path:
    """Copy the packages below `directory` and put the fault in; returns where Python finds them."""
    packages = directory / variants.DIST_PACKAGES
    for source in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPOSITORY / source, packages, dirs_exist_ok=True, ignore=ignored)
    variants.apply(directory, variant)
    return packages


def command(packages: Path, module: str, config: Path, *arguments: str) -> list[str]:
    """The command line of `module`'s main function, from these packages."""
    script = f"import sys; sys.path.insert(0, {str(packages)!r}); from {module} import main; main()"
    return [sys.executable, "-c", script, "--config", str(config), *arguments]


def run(packages: Path, module: str, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command(packages, module, config, *arguments),
        cwd="/", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
