"""The lifeline and the recovery as Nix evaluates them."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from tests.nix.files import ROOT, sections, values

Host = dict[str, Any]
LAYOUT = tomllib.loads((ROOT / "image/layout.toml").read_text())
UNITS = ROOT / "agent/appliance-update/lifeline"


def test_the_product_has_the_lifeline_with_its_timer_its_page_and_its_screen(t640: Host) -> None:
    declared = t640["units"]["declared"]
    assert declared["appliance-lifeline.timer"]["wantedBy"] == ["timers.target"]
    assert declared["appliance-status.socket"]["wantedBy"] == ["sockets.target"]
    assert declared["appliance-console@tty1.service"]["wantedBy"] == ["multi-user.target"]


def test_the_page_is_let_in_and_declared(t640: Host) -> None:
    port = values((UNITS / "systemd/appliance-status.socket").read_text(), "Socket", "ListenStream")[0]
    assert int(port) in t640["firewall"]["allowedTCPPorts"]
    assert f"tcp/{port}" in t640["settings"]["compliance-agent"]["checks"]["listening"]


def test_the_configuration_is_plain_lines_that_the_script_reads(t640: Host) -> None:
    lines = t640["etc"]["appliance-lifeline.conf"].splitlines()
    assert all(re.fullmatch(r"[A-Z_]+=[^\"'$`]*", line) for line in lines)
    known = set(re.findall(r"setting ([A-Z_]+) ", (UNITS / "appliance-lifeline").read_text()))
    assert {line.partition("=")[0] for line in lines} <= known


def test_hosts_without_slots_have_no_lifeline(rendered: dict[str, Host]) -> None:
    for name in ("t640-rebuild", "vm", "central"):
        assert "appliance-lifeline.conf" not in rendered[name]["etc"]
        assert rendered[name]["recovery"] == {}


def test_a_new_disk_carries_the_recovery_with_its_tries(t640: Host) -> None:
    name = LAYOUT["esp"]["recovery_first"].replace("@v", t640["recovery"]["version"])
    assert f"{LAYOUT['esp']['uki_directory']}/{name}" in t640["disk"]["espContents"]


def test_the_recovery_sorts_behind_the_slots_and_opens_none(t640: Host) -> None:
    recovery = t640["recovery"]
    assert recovery["id"] == LAYOUT["esp"]["recovery_name"].partition("_")[0] > LAYOUT["image"]["id"]
    assert recovery["file"] == LAYOUT["esp"]["recovery_name"].replace("@v", recovery["version"])
    words = recovery["commandLine"].split()
    assert not [word for word in words if word.startswith(("roothash=", "usrhash=", "init=", "root="))]
    assert set(LAYOUT["boot"]["command_line"]) <= set(words)
    assert "rd.systemd.unit=appliance-recovery.target" in words


def test_the_recovery_has_network_lifeline_screen_and_page_and_no_python(t640: Host) -> None:
    recovery = t640["recovery"]
    for unit in ("appliance-recovery.service", "appliance-console@tty1.service", "appliance-status.socket",
                 "appliance-recovery-firewall.service"):  # fmt: skip
        assert recovery["units"][unit]["wantedBy"] == ["appliance-recovery.target"], unit
    assert recovery["networks"] == ["20-wired"]
    assert "/etc/appliance-lifeline.conf" in recovery["files"]
    assert "/usr/share/appliance-update/build-time" in recovery["files"]
    assert recovery["configuration"] == t640["etc"]["appliance-lifeline.conf"]
    assert not [path for path in recovery["storePaths"] if "python" in path]
    for tool in ("curl", "minisign", "zstd", "util-linux", "coreutils"):
        assert [path for path in recovery["storePaths"] if tool in path], tool


def test_the_units_name_programs_of_the_package(t640: Host) -> None:
    for name, text in t640["recovery"]["shipped"].items():
        for _, key, value in sections(text):
            if key.startswith("Exec"):
                assert re.match(r"-?/nix/store/[^/]+-appliance-lifeline-", value), f"{name}: {value}"
