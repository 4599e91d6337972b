"""What `make nix-check` found out about each host, and the disk's description."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from tests.nix.files import ROOT

RENDERED = ROOT / ".cache/nix-check/rendered.json"
HOSTS = ("t640", "t640-rebuild", "vm", "central")


@pytest.fixture(scope="session")
def rendered() -> dict[str, Any]:
    if not RENDERED.exists():
        pytest.skip("no evaluated hosts: `make nix-check NIXPKGS=DIR` makes them, with Nix and a checkout of nixpkgs")
    hosts: dict[str, Any] = json.loads(RENDERED.read_text())
    return hosts


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
