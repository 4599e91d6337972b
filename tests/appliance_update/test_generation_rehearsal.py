"""Could this generation host be changed once more? Programs in their places, and a host that lacks one thing each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance_update.generation_rehearsal import NotAble, rehearse
from appliance_update.host import Host
from tests.appliance_update.nixos_host import NixosHost


@pytest.fixture
def host(quick: Path, monkeypatch: pytest.MonkeyPatch) -> NixosHost:
    programs = quick / "bin"
    programs.mkdir()
    for name in ("nix", "nix-store", "nix-env"):
        (programs / name).write_text("#!/bin/sh\necho nix 2.34\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    made = NixosHost(quick / "root")
    made.deploy(made.system("one", "2026.11.1"))
    return made


def test_a_host_that_can_be_changed_passes_and_is_left_as_it_was(host: NixosHost) -> None:
    before = sorted(path for path in (host.root / "boot").rglob("*"))
    rehearse(host.config(), Host(host.root))
    assert sorted(path for path in (host.root / "boot").rglob("*")) == before


def without_nix(host: NixosHost) -> None:
    (host.root.parent / "bin/nix-store").unlink()


def dead_daemon(host: NixosHost) -> None:
    (host.root.parent / "bin/nix-store").write_text("#!/bin/sh\necho 'cannot connect to daemon' >&2; exit 1\n")


def esp_not_mounted(host: NixosHost) -> None:
    for entry in host.entries:
        entry.path.unlink()


@pytest.mark.parametrize(
    ("take_away", "words"),
    [(without_nix, "nix-store"), (dead_daemon, "cannot connect"), (esp_not_mounted, "is the ESP mounted")],
)
def test_what_is_missing_is_said(host: NixosHost, take_away: Callable[[NixosHost], None], words: str) -> None:
    take_away(host)
    with pytest.raises(NotAble, match=words):
        rehearse(host.config(), Host(host.root))


def test_an_esp_without_room_for_a_kernel_is_said(host: NixosHost) -> None:
    with pytest.raises(NotAble, match="too little room"):
        rehearse(host.config(esp_free_mib=1 << 40), Host(host.root))
