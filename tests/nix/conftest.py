"""What `make nix-check` found out about each host, and the disk's description."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.nix.files import ROOT

EVALUATED = ROOT / ".cache/nix-check/evaluated.json"
HOSTS = ("t640", "t640-rebuild", "vm", "central")


def looked_at() -> list[Path]:
    """The files evaluation reads."""
    patterns = ["flake.*", "VERSION", "*.nix", "{}/**/*.nix", "image/**/*", "{}/systemd/**/*", "{}/*.d/*", "{}/etc/*"]
    folders = ["lib", "modules", "hosts", "vm-tests/nixos", "central", "agent/*"]
    globs = [pattern.format(folder) for pattern in patterns for folder in (folders if "{}" in pattern else [""])]
    return [path for pattern in globs for path in ROOT.glob(pattern) if path.is_file()]


@pytest.fixture(scope="session")
def evaluated() -> dict[str, Any]:
    """The flake's `lib` output."""
    if not EVALUATED.exists():
        pytest.skip("no evaluated hosts: `make nix-check NIXPKGS=DIR` makes them, with Nix and a checkout of nixpkgs")
    changed = [path for path in looked_at() if path.stat().st_mtime > EVALUATED.stat().st_mtime]
    if changed:
        pytest.skip(f"{changed[0].relative_to(ROOT)} has changed since the hosts were evaluated: run `make nix-check`")
    found: dict[str, Any] = json.loads(EVALUATED.read_text())
    return found


@pytest.fixture(scope="session")
def rendered(evaluated: dict[str, Any]) -> dict[str, Any]:
    """Each host by name, as lib/rendered.nix describes it."""
    hosts: dict[str, Any] = evaluated["rendered"]
    return hosts


@pytest.fixture(scope="session")
def refused(evaluated: dict[str, Any]) -> dict[str, list[str]]:
    """What lib/refused.nix was told."""
    sentences: dict[str, list[str]] = evaluated["refused"]
    return sentences


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, rendered: dict[str, Any]) -> dict[str, Any]:
    """Each host in turn."""
    found: dict[str, Any] = rendered[request.param]
    return found


@pytest.fixture
def t640(rendered: dict[str, Any]) -> dict[str, Any]:
    """The product."""
    found: dict[str, Any] = rendered["t640"]
    return found


@pytest.fixture(scope="session")
def layout() -> dict[str, Any]:
    return tomllib.loads((ROOT / "image/layout.toml").read_text())
