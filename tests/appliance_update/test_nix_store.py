"""The calls of Nix's programs: what is asserted of a path, and that nothing from outside is ever an option."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from appliance_update.generation_entries import entries, preferred
from appliance_update.install import InstallError
from appliance_update.nix_store import FLAKE, KEY, STORE_PATH, Commands, generations, present
from appliance_update.transfer import TransferError

PATH = "/nix/store/" + "a" * 32 + "-nixos-system-t640-26.11"
OTHER = "/nix/store/" + "b" * 32 + "-nixos-system-t640-26.11"
TRUSTED = "fleet-1:" + "A" * 43 + "="


class Programs:
    """Notes each call in the place of running it; answers with what it was given."""

    def __init__(self, status: int = 0, output: str = "", errors: str = "") -> None:
        self.calls: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self._answer = (status, output, errors)

    def __call__(self, call: list[str], **rest: Any) -> subprocess.CompletedProcess[str]:
        assert rest["stdin"] is subprocess.DEVNULL and rest["timeout"] > 0
        self.calls.append(call)
        self.environments.append(rest["env"])
        status, output, errors = self._answer
        return subprocess.CompletedProcess(call, status, output, errors)


def test_a_path_is_fetched_with_signatures_whatever_nix_conf_says() -> None:
    programs = Programs()
    Commands(substituters=("https://cache.example",), run=programs).realise(PATH, Path("/root"))
    (call,) = programs.calls
    assert "--no-check-sigs" not in call
    assert call[call.index("require-sigs") + 1] == "true"
    assert call[call.index("substituters") + 1] == "https://cache.example"
    assert programs.environments[0]["NIX_REMOTE"] == "daemon"


def test_only_the_keys_of_the_list_count_and_building_it_here_does_not() -> None:
    programs = Programs()
    Commands(run=programs).signed(PATH, (TRUSTED,))
    (call,) = programs.calls
    assert call[call.index("--sigs-needed") + 1] == "1"
    assert call[call.index("trusted-public-keys") + 1] == TRUSTED
    assert call[-2:] == ["--", PATH]


def test_a_flake_s_own_configuration_of_nix_is_not_taken() -> None:
    programs = Programs(output=f"{PATH}\n")
    assert Commands(run=programs).build("github:example/fleet#t640-rebuild", Path("/root")) == PATH
    (call,) = programs.calls
    assert call[call.index("accept-flake-config") + 1] == "false"
    assert call[-1] == "github:example/fleet#nixosConfigurations.t640-rebuild.config.system.build.toplevel"
    assert not {"--impure", "--no-check-sigs"} & set(call)


def test_a_build_that_names_no_path_has_failed() -> None:
    with pytest.raises(TransferError, match="named no path"):
        Commands(run=Programs(output="")).build("github:example/fleet#t640", Path("/root"))


def test_first_and_last_words_of_a_failure_are_kept() -> None:
    programs = Programs(status=1, errors="error: it began here\n" + "noise\n" * 1000 + "and ended there")
    with pytest.raises(TransferError) as failure:
        Commands(run=programs).intact(PATH)
    assert "it began here" in str(failure.value) and "ended there" in str(failure.value)


def test_a_host_without_nix_says_so(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="missing"):
        Commands().install_loader(str(tmp_path / "no-such-system"))


def test_switch_to_configuration_is_told_to_boot_and_never_to_switch() -> None:
    programs = Programs()
    Commands(run=programs).install_loader(PATH)
    assert programs.calls == [[f"{PATH}/bin/switch-to-configuration", "boot"]]


def test_a_generation_that_exists_is_gone_back_to_and_not_made_again(tmp_path: Path) -> None:
    profile = tmp_path / "system"
    for number, path in ((1, PATH), (2, OTHER)):
        (tmp_path / f"system-{number}-link").symlink_to(path)
    profile.symlink_to("system-2-link")
    assert (present(profile), generations(profile)) == (OTHER, [(1, PATH), (2, OTHER)])
    programs = Programs()
    Commands(run=programs).set_profile(profile, PATH)
    Commands(run=programs).set_profile(profile, PATH.replace("a", "c"))
    assert programs.calls[0][-2:] == ["--switch-generation", "1"]
    assert programs.calls[1][-2] == "--set"


@pytest.mark.parametrize("text", [
    "", "/nix/store", "/nix/store/" + "a" * 32, "/nix/store/" + "e" * 32 + "-x", PATH + "/bin/sh", PATH + "\n",
    " " + PATH, PATH + ";reboot", "/nix/store/" + "a" * 32 + "-..", "/nix/store/" + "a" * 32 + "-" + "x" * 300,
    "--help",
])  # fmt: skip
def test_what_is_no_store_path(text: str) -> None:
    assert STORE_PATH.fullmatch(PATH)
    assert not STORE_PATH.fullmatch(text)


@pytest.mark.parametrize("text", [
    "", "fleet#t640", "nixpkgs#hello", "path:/tmp#x", "/tmp#x", ".#x", "--impure", "github:-x/y#z", "github:a/b",
    "github:a/b#x.y", "github:a/b#x y", "github:a/b#--impure", "file:///etc/passwd#x", "git+file:///tmp#x",
    "github:a/b#x\n",
])  # fmt: skip
def test_what_is_no_flake_reference(text: str) -> None:
    assert FLAKE.fullmatch("git+https://git.example/fleet?ref=main#t640-rebuild")
    assert not FLAKE.fullmatch(text)


def test_keys_are_those_of_nix() -> None:
    assert KEY.fullmatch(TRUSTED)
    assert not KEY.fullmatch(f"{TRUSTED} other-1:{'A' * 43}=")


def test_entries_tell_their_system_and_their_counter(tmp_path: Path) -> None:
    digest = "0" * 64
    for counter, system in (("", PATH), ("+3", OTHER), ("+0-3", PATH)):
        text = f"title NixOS\nversion Generation 1\nlinux /EFI/k.efi\noptions init={system}/init panic=10\n"
        (tmp_path / f"nixos-{digest}{counter}.conf").write_text(text)
    (tmp_path / "memtest86.conf").write_text("title memtest")
    (tmp_path / f"nixos-{'1' * 64}.conf").write_text("options quiet")
    found = {entry.path.name: entry for entry in entries(tmp_path)}
    assert len(found) == 3
    assert found[f"nixos-{digest}.conf"].blessed
    assert (found[f"nixos-{digest}+3.conf"].left, found[f"nixos-{digest}+3.conf"].system) == (3, OTHER)
    assert found[f"nixos-{digest}+0-3.conf"].spent
    assert {entry.identity for entry in found.values()} == {f"nixos-{digest}.conf"}


def test_the_preferred_entry_is_read_from_loader_conf(tmp_path: Path) -> None:
    (tmp_path / "loader.conf").write_text("timeout 5\npreferred nixos-1.conf\ndefault nixos-*\n")
    assert preferred(tmp_path / "loader.conf") == "nixos-1.conf"
    assert preferred(tmp_path / "none") == ""
