"""Faults on a real machine: struck once, and only where root allowed it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance_update.faults import VARIABLE, Action, Fault, armed, parse

SCRIPT = """
import sys
from pathlib import Path
from appliance_update import faults
faults.set_hook(faults.armed(Path(sys.argv[1])))
for name in ("write:state.json", "uki:write", "uki:write", "uki:write"):
    faults.point(name)
    print(name, flush=True)
"""


def run(allowed: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(allowed)],
        env=os.environ | environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    path = tmp_path / "faults-allowed"
    path.write_text("")
    return path


def test_without_the_file_nothing_is_struck(tmp_path: Path) -> None:
    done = run(tmp_path / "faults-allowed", **{VARIABLE: "uki:write:kill"})
    assert (done.returncode, len(done.stdout.split("\n"))) == (0, 5)


@pytest.mark.parametrize("mode", [0o666, 0o620])
def test_a_file_that_others_can_write_allows_nothing(allowed: Path, mode: int) -> None:
    allowed.write_text("uki:write:kill")
    allowed.chmod(mode)
    assert armed(allowed) is None


def test_a_file_of_somebody_else_or_a_link_allows_nothing(allowed: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(allowed)
    assert armed(tmp_path / "link") is None
    os.chown(allowed, 4711, 4711)
    assert armed(allowed) is None


def test_a_kill_strikes_at_its_place_and_leaves_word(allowed: Path) -> None:
    allowed.write_text("uki:write:kill")
    done = run(allowed)
    assert (done.returncode, done.stdout) == (-9, "write:state.json\n")
    assert (allowed.parent / "faults-hit").read_text() == "uki:write#1:kill\n"


def test_it_strikes_once_a_boot_also_in_another_process(allowed: Path) -> None:
    assert run(allowed, **{VARIABLE: "uki:write:kill"}).returncode == -9
    assert run(allowed, **{VARIABLE: "uki:write:kill"}).returncode == 0


def test_the_third_time_can_be_meant(allowed: Path) -> None:
    allowed.write_text("uki:write#3:kill")
    assert run(allowed).stdout == "write:state.json\nuki:write\nuki:write\n"


@pytest.mark.parametrize("action, number", [("enospc", errno.ENOSPC), ("eio", errno.EIO)])
def test_errors_are_those_of_the_kernel(allowed: Path, action: str, number: int) -> None:
    allowed.write_text(f"write:*:{action}")
    done = run(allowed)
    assert os.strerror(number) in done.stderr


def test_a_typo_is_an_error_and_no_test_that_passes(allowed: Path) -> None:
    for text in ("uki:write:explode", "kill"):
        with pytest.raises(ValueError, match=r".+"):
            parse(text)
    assert parse("a:b:hang") == (Fault("a:b", Action.HANG),)
