"""The unit files: no privilege, no way out, and nothing that ends in a dead service."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from local_portal import __version__

FOLDER = Path(__file__).parents[2] / "agent" / "local-portal"


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(FOLDER / "systemd" / name)
    return parser


def test_the_version_in_the_code_is_the_packages() -> None:
    with (FOLDER / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == __version__


def test_the_vendored_font_lies_beside_its_licence() -> None:
    static = FOLDER / "src" / "local_portal" / "static"
    assert "SIL Open Font License" in (static / "inter-LICENSE.txt").read_text()
    assert (static / "inter-latin.woff2").read_bytes().startswith(b"wOF2")


def test_the_process_holds_no_capability_and_can_make_no_network_connection() -> None:
    service = unit("local-portal.service")["Service"]
    assert service["CapabilityBoundingSet"] == "" and service["AmbientCapabilities"] == ""
    assert service["User"] == "local-portal" and service["NoNewPrivileges"] == "yes"
    assert service["RestrictAddressFamilies"] == "AF_UNIX"


def test_it_is_restarted_for_ever_and_watched() -> None:
    service = unit("local-portal.service")
    assert service["Service"]["Restart"] == "always" and service["Unit"]["StartLimitIntervalSec"] == "0"
    assert service["Service"]["Type"] == "notify" and int(service["Service"]["WatchdogSec"]) > 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_it_well_hardened() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15",
         str(FOLDER / "systemd" / "local-portal.service")],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_reads_every_unit(tmp_path: Path) -> None:
    for file in (FOLDER / "systemd").iterdir():
        text = file.read_text().replace("/usr/bin/local-portal", "/bin/true")
        # Known to systemd 254 and later, of which the appliance has 257 or newer.
        text = re.sub(r"^(RestartSteps|RestartMaxDelaySec)=.*\n", "", text, flags=re.MULTILINE)
        (tmp_path / file.name).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "local-portal" not in done.stderr, done.stderr


def test_the_consoles_text_is_a_link_into_the_runtime_directory() -> None:
    lines = (FOLDER / "tmpfiles.d" / "local-portal.conf").read_text().splitlines()
    assert "L+ /run/issue.d/local-portal.issue - - - - ../local-portal/console.issue" in lines
    assert unit("local-portal.service")["Service"]["RuntimeDirectory"] == "local-portal"
