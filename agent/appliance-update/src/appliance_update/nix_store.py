"""Nix as the updater of a generation host needs it: get a system into the store, and make it the next to boot.

What comes from outside (a store path, a flake reference) is checked for its form before any program sees it, and never
stands where a program would read an option.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance_update.install import InstallError
from appliance_update.transfer import TransferError

STORE_PATH = re.compile(r"/nix/store/[0-9abcdfghijklmnpqrsvwxyz]{32}-[0-9A-Za-z+_?=][0-9A-Za-z+._?=-]{0,210}")
"""A whole path of the store and nothing below it (Nix manual, "Store Path Specification")."""
FLAKE = re.compile(
    r"(github|gitlab|sourcehut|git\+https|git\+ssh|https|tarball\+https):"
    r"[A-Za-z0-9/][A-Za-z0-9@:/?&=._~%+-]{0,400}#[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
)
"""A flake by its address, and the name of one of its hosts: no path of this machine, and no name from a registry."""
KEY = re.compile(r"[A-Za-z0-9._-]{1,100}:[A-Za-z0-9+/]{43}=")
"""A public key as `nix key convert-secret-to-public` prints it."""

FETCH_DEADLINE = 5 * 3600.0
STEP_DEADLINE = 1800.0


class Nix(Protocol):
    """What is asked of Nix."""

    def realise(self, path: str, root: Path) -> None:
        """Bring a path and all it needs into the store, rooted by a link. Raises `TransferError`."""

    def build(self, flake: str, root: Path) -> str:
        """The path of a flake's host, built or fetched, rooted by a link. Raises `TransferError`."""

    def signed(self, path: str, keys: Sequence[str]) -> None:
        """Assert that one of these keys signed the path. Raises `TransferError`."""

    def intact(self, path: str) -> None:
        """Read back all that the system consists of. Raises `TransferError`."""

    def set_profile(self, profile: Path, path: str) -> None:
        """Make the path the profile's newest generation, or go to the one it is already. Raises `InstallError`."""

    def forget(self, profile: Path, path: str) -> None:
        """Delete the profile's generations of a path that is not its present one. Raises `InstallError`."""

    def install_loader(self, path: str) -> None:
        """Have the system write its boot entries: `switch-to-configuration boot`. Raises `InstallError`."""


@dataclass(frozen=True)
class Commands:
    """The real one, by Nix's own programs and through its daemon."""

    substituters: tuple[str, ...] = ()
    """Where to fetch from; empty: what nix.conf says."""
    deadline: float = FETCH_DEADLINE
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run

    def realise(self, path: str, root: Path) -> None:
        """See `Nix`."""
        wanted = self._fetching()
        self._nix("nix-store", "--realise", *wanted, "--add-root", str(root), "--", path, limit=self.deadline)

    def build(self, flake: str, root: Path) -> str:
        """See `Nix`. What the flake says about Nix's own configuration is not taken."""
        url, _, host = flake.partition("#")
        target = f"{url}#nixosConfigurations.{host}.config.system.build.toplevel"
        strict = ["--option", "accept-flake-config", "false", "--no-write-lock-file", "--refresh", "--print-out-paths"]
        said = self._nix(
            "nix", *NEW, "build", *strict, *self._fetching(), "--out-link", str(root), "--", target,
            limit=self.deadline,
        )  # fmt: skip
        path = said.strip().splitlines()[-1].strip() if said.strip() else ""
        if not STORE_PATH.fullmatch(path):
            raise TransferError(f"{flake} was built, but Nix named no path of the store: {said[:200]!r}")
        return path

    def signed(self, path: str, keys: Sequence[str]) -> None:
        """See `Nix`. Only the keys given here count, none that nix.conf trusts; nor does it that it was built here."""
        trusted = ["--option", "trusted-public-keys", " ".join(keys)]
        self._nix("nix", *NEW, "store", "verify", "--no-contents", "--sigs-needed", "1", *trusted, "--", path)

    def intact(self, path: str) -> None:
        """See `Nix`."""
        self._nix("nix", *NEW, "store", "verify", "--recursive", "--no-trust", "--", path)

    def set_profile(self, profile: Path, path: str) -> None:
        """See `Nix`. A generation that exists keeps its number: its boot entry keeps its name and its blessing."""
        number = next((number for number, there in generations(profile) if there == path), None)
        arguments = ["--set", path] if number is None else ["--switch-generation", str(number)]
        self._change("nix-env", "--profile", str(profile), *arguments)

    def forget(self, profile: Path, path: str) -> None:
        """See `Nix`."""
        numbers = [str(number) for number, there in generations(profile) if there == path]
        if numbers:
            self._change("nix-env", "--profile", str(profile), "--delete-generations", *numbers)

    def install_loader(self, path: str) -> None:
        """See `Nix`."""
        self._change(f"{path}/bin/switch-to-configuration", "boot")

    # -- help ---------------------------------------------------------------------------------------------------------

    def _fetching(self) -> list[str]:
        """A path without a good signature is never taken, whatever nix.conf says."""
        sources = ["--option", "substituters", " ".join(self.substituters)] if self.substituters else []
        return ["--option", "require-sigs", "true", *sources]

    def _nix(self, *call: str, limit: float = STEP_DEADLINE) -> str:
        try:
            return self._call(call, limit)
        except CallError as error:
            raise TransferError(str(error)) from error

    def _change(self, *call: str) -> None:
        try:
            self._call(call, STEP_DEADLINE)
        except CallError as error:
            raise InstallError(str(error)) from error

    def _call(self, call: Sequence[str], limit: float) -> str:
        name = " ".join([Path(call[0]).name, *call[1:2]])
        # Everything goes through the daemon, so that builds run in its sandbox and not in ours.
        environment = {**os.environ, "NIX_REMOTE": os.environ.get("NIX_REMOTE", "daemon")}
        try:
            done = self.run(
                list(call), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=limit, check=False, env=environment,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise CallError(f"{call[0]} is missing: a host that keeps generations needs Nix") from error
        except subprocess.TimeoutExpired as error:
            raise CallError(f"`{name}` did not end in {limit:.0f} s") from error
        except OSError as error:
            raise CallError(f"`{name}` cannot be started: {error}") from error
        if done.returncode:
            raise CallError(f"`{name}` failed ({done.returncode}): {shortened(done.stderr or done.stdout)}")
        return done.stdout


NEW = ("--extra-experimental-features", "nix-command flakes")


class CallError(RuntimeError):
    """A program did not do what it was asked for; the message holds its words."""


def shortened(text: str) -> str:
    """What a program said, first and last words: the reason may be at either end."""
    text = text.strip()
    return text if len(text) < 1200 else f"{text[:400]} … {text[-750:]}"


def generations(profile: Path) -> list[tuple[int, str]]:
    """The generations of a profile by number, oldest first, and the store path each is."""
    found = []
    name = re.compile(rf"{re.escape(profile.name)}-(\d+)-link")
    for link in profile.parent.glob(f"{profile.name}-*-link"):
        match = name.fullmatch(link.name)
        if match and link.is_symlink():
            found.append((int(match[1]), str(link.readlink())))
    return sorted(found)


def present(profile: Path) -> str:
    """The store path a profile is now; empty when there is none."""
    try:
        return str((profile.parent / profile.readlink()).readlink())
    except OSError:
        return ""
