"""A simulated NixOS host: a store, a profile, boot entries, and a boot loader that counts. The updater is the real one.

What Nix does is done to a directory tree as nixpkgs' systemd-boot-builder.py does it; which programs the updater calls
for that, and how, is tested with programs in their places (`test_nix_store`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from appliance_update import faults
from appliance_update import generation_entries as boot_entries
from appliance_update.config import Config, Gate, Generations, Paths
from appliance_update.generations import GenerationUpdater
from appliance_update.host import LOADER_GUID, Host
from appliance_update.install import InstallError
from appliance_update.machine import assemble
from appliance_update.nix_store import generations, present
from appliance_update.transfer import TransferError
from appliance_update.watch import Watch
from tests.appliance_update.watching import watch_of

LAYOUT = Path(__file__).parents[2] / "image/layout.toml"
KEY = "fleet-1:" + "A" * 43 + "="
FLAKE = "github:example/fleet#t640-rebuild"
TRIES = 3


def store_path(name: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:32].translate(str.maketrans("e", "f"))
    return f"/nix/store/{digest}-nixos-system-t640-{name}"


@dataclass
class NixosHost:
    """The host. `cached` are systems that a substituter has, `signed` those that our key signed."""

    root: Path
    cached: set[str] = field(default_factory=set)
    signed_paths: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    built: dict[str, str] = field(default_factory=dict)
    counting: bool = True
    loader_fails: str = ""
    rebooted: list[bool] = field(default_factory=list)
    now: float = 1_800_000_000.0
    boots: int = 0

    def __post_init__(self) -> None:
        for folder in ("nix/store", "nix/var/nix/profiles", "run", "etc", "boot/loader/entries", "proc/self"):
            (self.root / folder).mkdir(parents=True)
        (self.root / "proc/self/mountinfo").write_text("")
        (self.root / "proc/sys/kernel/random").mkdir(parents=True)
        (self.root / f"sys/firmware/efi/efivars/LoaderEntrySelected-{LOADER_GUID}").parent.mkdir(parents=True)
        (self.root / "etc/os-release").symlink_to("/run/booted-system/etc/os-release")

    # -- what lies about ----------------------------------------------------------------------------------------------

    def system(self, name: str, version: str, *, image_id: str = "t640", without: str = "") -> str:
        """Put a system into the store. `without` is a file that it lacks."""
        path = store_path(name)
        inside = self.root / path.lstrip("/")
        for file in ("init", "boot.json", "bin/switch-to-configuration", "etc/appliance-update/config.toml",
                     "etc/systemd/system/boot-health.service"):  # fmt: skip
            if file != without:
                (inside / file).parent.mkdir(parents=True, exist_ok=True)
                (inside / file).write_text("")
        # As on NixOS: a link by an absolute path of the store.
        release = self.root / f"{path}-os-release".lstrip("/")
        release.write_text(f"NAME=NixOS\nIMAGE_ID={image_id}\nIMAGE_VERSION={version}\n")
        (inside / "etc").mkdir(exist_ok=True)
        (inside / "etc/os-release").symlink_to(f"{path}-os-release")
        self.cached.add(path)
        return path

    def deploy(self, path: str) -> None:
        """Installed by a person, long ago, and good since."""
        self.set_profile(self.profile, path)
        self.install_loader(path)
        for entry in boot_entries.of_system(self.entries, path):
            entry.path.rename(entry.path.with_name(entry.identity))
        self.boot()

    @property
    def profile(self) -> Path:
        return self.root / "nix/var/nix/profiles/system"

    @property
    def entries(self) -> tuple[boot_entries.Entry, ...]:
        return boot_entries.entries(self.root / "boot/loader/entries")

    @property
    def running(self) -> str:
        return str((self.root / "run/booted-system").readlink())

    # -- Nix ----------------------------------------------------------------------------------------------------------

    def realise(self, path: str, root: Path) -> None:
        if path not in self.cached:
            raise TransferError(f"`nix-store --realise` failed (1): don't know how to build path {path}")

    def build(self, flake: str, root: Path) -> str:
        if flake not in self.built:
            raise TransferError("`nix build` failed (1): unable to download: Could not resolve host")
        return self.built[flake]

    def signed(self, path: str, keys: Sequence[str]) -> None:
        if path not in self.signed_paths or KEY not in keys:
            raise TransferError(f"`nix store verify` failed (1): path '{path}' is untrusted")

    def intact(self, path: str) -> None:
        if path in self.damaged:
            raise TransferError(f"`nix store verify` failed (1): path '{path}' was modified!")

    def set_profile(self, profile: Path, path: str) -> None:
        there = generations(profile)
        number = next((number for number, system in there if system == path), None)
        if number is None:
            number = 1 + max((number for number, _ in there), default=0)
            profile.with_name(f"{profile.name}-{number}-link").symlink_to(path)
        new = profile.with_name(".new")
        new.symlink_to(f"{profile.name}-{number}-link")
        new.replace(profile)

    def forget(self, profile: Path, path: str) -> None:
        for number, system in generations(profile):
            if system == path and present(profile) != path:
                profile.with_name(f"{profile.name}-{number}-link").unlink()

    def install_loader(self, path: str) -> None:
        """What nixpkgs' builder does: entries are found again by their hash; those of no generation go."""
        if self.loader_fails:
            raise InstallError(self.loader_fails)
        directory = self.root / "boot/loader/entries"
        wanted, default = set(), ""
        for number, system in generations(self.profile):
            text = f"title NixOS\nversion Generation {number}\noptions init={system}/init panic=10\n"
            identity = f"nixos-{hashlib.sha256(text.encode()).hexdigest()}"
            old = next((entry.path.name for entry in self.entries if entry.identity == f"{identity}.conf"), "")
            name = old or f"{identity}{f'+{TRIES}' if self.counting else ''}.conf"
            faults.point(f"loader:{number}")
            (directory / name).write_text(text)
            wanted.add(name)
            default = f"{identity}.conf" if system == path else default
        for file in directory.iterdir():
            if file.name not in wanted:
                file.unlink()
        (self.root / "boot/loader/loader.conf").write_text(f"timeout 5\npreferred {default}\ndefault nixos-*\n")

    # -- the firmware, the boot loader, the kernel ---------------------------------------------------------------------

    def boot(self, healthy: Sequence[str] | None = None, limit: int = 10) -> str:
        """Boot until something stays up (`healthy`: all when None); the store path that runs then."""
        for _ in range(limit):
            entry = self._chosen()
            counted = entry.left is not None
            if counted:
                left, done = max((entry.left or 0) - 1, 0), (entry.done or 0) + 1
                name = f"{entry.identity.removesuffix('.conf')}+{left}-{done}.conf"
                entry = replace(entry, path=entry.path.rename(entry.path.with_name(name)), left=left, done=done)
            self._start(entry, counted)
            if healthy is None or entry.system in healthy:
                if counted:
                    entry.path.rename(entry.path.with_name(entry.identity))  # boot-complete.target: blessed
                return entry.system
        return self.running

    def _chosen(self) -> boot_entries.Entry:
        there = sorted(self.entries, key=lambda entry: (entry.spent, -entry.generation))
        wanted = boot_entries.preferred(self.root / "boot/loader/loader.conf")
        return next((entry for entry in there if entry.identity == wanted and not entry.spent), there[0])

    def _start(self, entry: boot_entries.Entry, counted: bool) -> None:
        self.boots += 1
        (self.root / "proc/sys/kernel/random/boot_id").write_text(f"{self.boots:032x}\n")
        link = self.root / "run/booted-system"
        link.unlink(missing_ok=True)
        link.symlink_to(entry.system)
        release = self.root / "etc/os-release"
        release.unlink(missing_ok=True)
        release.write_text((self.root / f"{entry.system}-os-release".lstrip("/")).read_text())
        variable = self.root / f"sys/firmware/efi/efivars/LoaderBootCountPath-{LOADER_GUID}"
        variable.unlink(missing_ok=True)
        if counted:
            variable.write_bytes(b"\0\0\0\0" + f"\\loader\\entries\\{entry.path.name}\0".encode("utf-16-le"))
        runtime = self.root / "run/appliance-update"
        for file in runtime.glob("*") if runtime.is_dir() else ():
            if file.is_file():
                file.unlink()
        if counted:
            runtime.mkdir(exist_ok=True)
            (runtime / "trial").write_text("")

    # -- the updater --------------------------------------------------------------------------------------------------

    def config(self, **changes: object) -> Config:
        ours = Generations(
            enable=True, flakes=(FLAKE,), trusted_keys=(KEY,), esp_free_mib=0, store_free_mib=0,
            profile="/nix/var/nix/profiles/system",
        )  # fmt: skip
        paths = Paths(
            layout=str(LAYOUT),
            state=str(self.root / "var/lib/appliance-update"),
            runtime=str(self.root / "run/appliance-update"),
        )
        return Config(generations=replace(ours, **changes), gate=Gate(slots=False), paths=paths)  # type: ignore[arg-type]

    def updater(self, config: Config | None = None) -> GenerationUpdater:
        """A new process: nothing is remembered but what is on the disk."""
        made = assemble(
            config or self.config(),
            host=Host(self.root),
            reboot=self.rebooted.append,
            now=lambda: self.now,
            nix=self,
        )
        assert isinstance(made, GenerationUpdater)
        return made

    def watch(self, **parts: object) -> Watch:
        """The watch after commit."""
        return watch_of(self.updater(), self.rebooted.append, **parts)

    def ask(self, order_id: str, **target: str) -> None:
        """What the agent drops, or whoever has taken the agent over."""
        box = self.root / "run/appliance-update/requests"
        box.mkdir(parents=True, exist_ok=True)
        (box / f"{order_id}.json").write_text(json.dumps({"order_id": order_id, **target}))

    def events(self) -> list[tuple[str, str]]:
        """What the history says, and for whose order."""
        file = self.root / "var/lib/appliance-update/history.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(entry["event"], entry["order_id"]) for entry in map(json.loads, lines)]

    @property
    def locked(self) -> bool:
        return (self.root / "var/lib/appliance-update/generation-armed").exists()
