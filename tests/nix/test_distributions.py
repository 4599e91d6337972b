"""The files a distribution ships beside its code, as every system installs them. Needs no Nix."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.nix.files import DISTRIBUTIONS, ROOT, accounts, sections, unit_files, values, verify

WITH_UNITS = [path for path in DISTRIBUTIONS if unit_files(path)]
WITH_ACCOUNTS = [path for path in DISTRIBUTIONS if accounts(path)]
MODULES = "\n".join(path.read_text() for path in sorted(ROOT.glob("modules/**/*.nix")))


def named(paths: list[Path]) -> list[object]:
    return [pytest.param(path, id=path.name) for path in paths]


@pytest.mark.parametrize("distribution", named(WITH_UNITS))
def test_systemd_finds_no_fault_with_the_units(distribution: Path, tmp_path: Path) -> None:
    assert verify(unit_files(distribution), tmp_path / "units") == []


def test_systemd_does_find_a_fault_where_there_is_one(tmp_path: Path) -> None:
    faulty = {"broken.service": "[Unit]\nAfter=broken.service\n[Service]\nExecStart=/usr/bin/x\nRestrat=always\n"}
    assert any("Restrat" in line for line in verify(faulty, tmp_path / "units"))


@pytest.mark.parametrize("distribution", named(WITH_UNITS))
def test_every_program_a_unit_starts_is_one_of_the_distribution(distribution: Path) -> None:
    scripts = tomllib.loads((distribution / "pyproject.toml").read_text())["project"]["scripts"]
    for name, text in unit_files(distribution).items():
        for _, key, value in sections(text):
            if key.startswith("Exec") and value:
                program, *words = value.lstrip("-@:+!|").split()
                if program == "/bin/sh":  # where Python may be what is broken: a shell script of the distribution
                    script = words[0].removeprefix(f"/usr/share/{distribution.name}/")
                    assert script == "-c" or (distribution / "share" / script).is_file(), f"{name}: {key}={value}"
                    continue
                assert program.startswith("/usr/bin/"), f"{name}: {key}={value}"
                assert program.removeprefix("/usr/bin/") in scripts, f"{name}: {key}={value}"


@pytest.mark.parametrize("distribution", named(WITH_UNITS))
def test_no_service_is_left_dead_for_good(distribution: Path) -> None:
    for name, text in unit_files(distribution).items():
        if name.endswith(".service") and values(text, "Service", "Type") != ["oneshot"]:
            assert values(text, "Service", "Restart") in (["always"], ["on-failure"]), name
            assert values(text, "Unit", "StartLimitIntervalSec") == ["0"], name


@pytest.mark.parametrize("distribution", named(WITH_UNITS))
def test_the_account_of_every_unit_is_declared(distribution: Path) -> None:
    for name, text in unit_files(distribution).items():
        for user in values(text, "Service", "User"):
            assert user == "root" or user in accounts(distribution), f"{name} runs as {user}"


@pytest.mark.parametrize("distribution", named(WITH_ACCOUNTS))
def test_the_module_declares_the_accounts_of_sysusers(distribution: Path) -> None:
    for account in accounts(distribution).values():
        block = re.search(rf"users\.users\.{account.name} = \{{(.*?)\n        \}};", MODULES, re.DOTALL)
        assert block, f"no module declares {account.name}"
        assert f'home = "{account.home}"' in block[1]
        assert f'description = "{account.description}"' in block[1]
        groups = re.search(r"extraGroups = \[(.*?)\]", block[1], re.DOTALL)
        assert frozenset(re.findall(r'"([^"]+)"', groups[1] if groups else "")) == account.groups


def test_every_folder_a_distribution_has_is_installed_by_nix() -> None:
    builder = (ROOT / "lib/python-distribution.nix").read_text()
    known = set(re.findall(r'^    "([\w.-]+)" = "', builder, re.MULTILINE)) | {"src", "etc", "initrd"}
    known |= {"lifeline"}  # a package of its own
    for distribution in DISTRIBUTIONS:
        folders = {path.name for path in distribution.iterdir() if path.is_dir()} - {"build", "__pycache__"}
        assert folders <= known, distribution
