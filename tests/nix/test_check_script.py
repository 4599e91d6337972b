"""vm-tests/nixos/check where there is nothing to check with: it says what is missing, and nobody's build fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.nix.files import ROOT

CHECK = ROOT / "vm-tests/nixos/check"
TOOLS = (
    "bash", "cat", "dirname", "git", "grep", "head", "mkdir", "realpath", "rm", "sed", "sort", "tar", "timeout",
    "touch",
)  # fmt: skip


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH with the script's tools and no nix."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, tool
        (folder / tool).symlink_to(found)
    return folder


def check(path: Path, result: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PATH": str(path), "NIXPKGS": "", "NIX_CHECK_RESULT": str(result), **environment}
    return subprocess.run(["bash", str(CHECK)], env=settings, capture_output=True, text=True, check=False)


def a_nix(folder: Path, version: str) -> None:
    """A program that is only old: what an old Nix would say of itself."""
    program = folder / "nix"
    program.write_text(f"#!/bin/sh\necho 'nix (Nix) {version}'\n")
    program.chmod(0o755)


def test_without_nix_it_is_skipped_and_says_what_to_install(bare_path: Path, tmp_path: Path) -> None:
    done = check(bare_path, tmp_path / "result")
    assert done.returncode == 0, done.stderr
    assert "SKIPPED" in done.stdout
    assert "nix-bin" in done.stdout


def test_with_a_nix_too_old_it_is_skipped_and_says_which_it_wants(bare_path: Path, tmp_path: Path) -> None:
    a_nix(bare_path, "2.8.0")
    done = check(bare_path, tmp_path / "result")
    assert done.returncode == 0, done.stderr
    assert "SKIPPED: nix is 2.8.0" in done.stdout
    assert "2.18" in done.stdout


def test_with_a_folder_that_is_no_nixpkgs_it_is_skipped_and_names_it(bare_path: Path, tmp_path: Path) -> None:
    a_nix(bare_path, "2.26.3")
    done = check(bare_path, tmp_path / "result", NIXPKGS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"SKIPPED: NIXPKGS={tmp_path}" in done.stdout


def test_what_an_earlier_run_found_is_not_taken_for_this_one_s(bare_path: Path, tmp_path: Path) -> None:
    result = tmp_path / "result"
    result.mkdir()
    (result / "evaluated.json").write_text("{}")
    check(bare_path, result)
    assert not (result / "evaluated.json").exists()


def test_shell_scripts_are_clean() -> None:
    scripts = [CHECK, ROOT / "image/installer/install-appliance", ROOT / "image/sign/sign-image"]
    done = subprocess.run(["shellcheck", *map(str, scripts)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
