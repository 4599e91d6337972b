"""Firewall, accounts and configuration files of every evaluated host."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import appliance_update.config
import central_command.settings
import compliance_agent.config_file
import local_portal.config
import network_scanner.config
from compliance_agent.checks.settings import CheckSettings
from tests.nix.files import DISTRIBUTIONS, ROOT, accounts, definition, toml

Host = dict[str, Any]
STAND_IN = ROOT / "vm-tests/t640/mkosi/mkosi.extra"


def ruleset(host: Host) -> str:
    tables = host["firewall"]["tables"].items()
    return "\n".join(f"table {table['family']} {name} {{\n{table['content']}\n}}" for name, table in tables)


@pytest.mark.netns
def test_the_kernel_takes_the_firewall_and_it_denies_by_default(host: Host, tmp_path: Path) -> None:
    if not host["firewall"]["tables"]:
        pytest.fail("this host has no nftables tables at all")
    file = tmp_path / "rules"
    file.write_text(ruleset(host))
    # A network namespace of its own: the rules are really loaded, and gone with it.
    script = f"nft --check --file {file}; nft --file {file}; nft list chain inet nixos-fw input"
    done = subprocess.run(["unshare", "--net", "sh", "-ec", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "policy drop" in done.stdout


def accepted(rules: str) -> set[str]:
    """`tcp/443`-like ports that are let in from anywhere or for a multicast group, by destination port."""
    found = set()
    for line in rules.splitlines():
        ports = re.search(r"(tcp|udp) dport (\{[^}]*\}|\d+)", line)
        if ports and "accept" in line and "udp sport" not in line:
            found |= {f"{ports[1]}/{port}" for port in re.findall(r"\d+", ports[2])}
    return found


def test_the_appliance_lets_in_what_the_stand_in_lets_in(t640: Host) -> None:
    stand_in = accepted((STAND_IN / "etc/nftables.conf").read_text())
    # NixOS answers the DHCP client's broadcast in its prerouting chain.
    assert accepted(ruleset(t640)) | {"udp/68"} == stand_in


def test_nothing_is_forwarded(t640: Host) -> None:
    assert re.search(r"hook forward priority filter; policy drop", ruleset(t640))


def test_the_agent_is_told_to_expect_the_ports_that_are_open(t640: Host) -> None:
    assert set(t640["settings"]["compliance-agent"]["checks"]["listening"]) == set(CheckSettings().listening)


def test_accounts_are_those_of_sysusers_d(host: Host) -> None:
    for package in host["packages"]:
        folder = "central" if package == "central-command" else package
        distribution = next(path for path in DISTRIBUTIONS if path.name == folder)
        for account in accounts(distribution).values():
            declared = host["users"][account.name]
            assert declared["isSystemUser"]
            assert declared["description"] == account.description
            assert (declared["home"], declared["group"]) == (account.home, account.name)
            assert frozenset(declared["extraGroups"]) == account.groups
            assert account.groups | {account.name} <= set(host["groups"])


def test_nobody_but_system_accounts_lives_on_the_appliance(t640: Host) -> None:
    assert [name for name, user in t640["users"].items() if user["isNormalUser"]] == []


def read_by_agent(path: Path) -> list[str]:
    return list(compliance_agent.config_file.load(path).warnings)


READERS: dict[str, Callable[[Path], list[str]]] = {
    "appliance-update": lambda path: appliance_update.config.load(path)[1],
    "central-command": lambda path: central_command.settings.load(path, {})[1],
    "compliance-agent": read_by_agent,
    "local-portal": lambda path: list(local_portal.config.load(path)[1]),
    "network-scanner": lambda path: list(network_scanner.config.load(path).warnings),
}


def test_every_program_understands_its_settings_without_a_warning(host: Host, tmp_path: Path) -> None:
    for name, settings in host["settings"].items():
        file = tmp_path / f"{name}.toml"
        file.write_text(toml(settings))
        assert READERS[name](file) == [], name


def test_the_defaults_of_the_packages_are_the_defaults_of_the_modules(t640: Host) -> None:
    """Where a module says nothing, the file on NixOS is the file the distribution ships."""
    for name, settings in t640["settings"].items():
        file = ROOT / f"agent/{name}/etc/config.toml"
        shipped = tomllib.loads(file.read_text()) if file.exists() else {}
        missing = {key for key in shipped if key not in settings}
        assert not missing, name


@pytest.mark.parametrize(
    ("rendered_file", "stand_in_file"),
    [
        ("systemd/journald.conf", "usr/lib/systemd/journald.conf.d/10-appliance.conf"),
        ("systemd/timesyncd.conf", "usr/lib/systemd/timesyncd.conf.d/10-appliance.conf"),
        ("systemd/resolved.conf", "usr/lib/systemd/resolved.conf.d/10-appliance.conf"),
        ("systemd/system.conf", "usr/lib/systemd/system.conf.d/10-appliance.conf"),
    ],
)
def test_the_base_system_is_set_up_like_the_stand_in_s(t640: Host, rendered_file: str, stand_in_file: str) -> None:
    rendered = definition(t640["etc"][rendered_file])
    for key, value in definition((STAND_IN / stand_in_file).read_text()).items():
        assert rendered.get(key, "") == value, key


def test_the_updater_is_built_from_nothing_it_may_have_to_repair(t640: Host) -> None:
    others = {path.name for path in DISTRIBUTIONS} - {"appliance-update"}
    assert not others & set(t640["packages"]["appliance-update"]["dependencies"])


def test_every_package_is_built_from_what_its_pyproject_names(host: Host) -> None:
    for package, facts in host["packages"].items():
        folder = next(path for path in DISTRIBUTIONS if path.name in (package, package.split("-")[0]))
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        wanted = {re.split(r"[<>=\[ ;~!]", item)[0].lower() for item in project["dependencies"]}
        # nixpkgs names a package by its own pname, in which case and dashes differ now and then.
        built = {name.lower().replace("_", "-") for name in facts["dependencies"]}
        assert wanted <= built, package


def test_no_secret_and_no_identity_is_part_of_the_image(t640: Host) -> None:
    assert not t640["etc"].get("machine-id", "").strip()
    everything = str(t640["etc"]) + str(t640["settings"])
    assert not re.search(r"PRIVATE KEY|password *=|secret *=", everything)
