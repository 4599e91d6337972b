"""The rehearsal's part for a host that keeps generations: could this system install another one?

Nothing is fetched and nothing is changed: no uplink is needed for it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from appliance_update.config import Config
from appliance_update.generation_entries import entries, of_system
from appliance_update.generation_state import load, save
from appliance_update.host import Host

PATIENCE = 60.0
MIB = 1024 * 1024


class NotAble(RuntimeError):
    """What keeps this system from being replaced."""


def rehearse(config: Config, host: Host) -> None:
    """Nix answers, the profile can be changed, the ESP holds our entry and has room. Raises `NotAble`, `OSError`."""
    ours = config.generations
    for call in (["nix", "--version"], ["nix-store", "--version"], ["nix-env", "--version"]):
        _answers(call)
    booted = str(host.path("/run/booted-system").readlink())
    _answers(["nix-store", "--query", "--hash", booted])
    profile = host.path(ours.profile)
    if not os.access(profile.parent, os.W_OK):
        raise NotAble(f"{profile.parent} cannot be written: no generation could be made the next to boot")
    boot = host.path(ours.boot)
    if not of_system(entries(boot / "loader/entries"), booted):
        raise NotAble(f"{boot}/loader/entries names no entry for {booted}, which runs: is the ESP mounted there?")
    if not os.access(boot / "loader/entries", os.W_OK):
        raise NotAble(f"{boot} cannot be written")
    space = os.statvfs(boot)
    if space.f_bavail * space.f_frsize < ours.esp_free_mib * MIB:
        raise NotAble(f"{boot} has too little room for a kernel and an initrd ({ours.esp_free_mib} MiB are wanted)")
    state = Path(config.paths.state)
    save(state, load(state))


def _answers(call: list[str]) -> None:
    name = " ".join(call[:3])
    try:
        done = subprocess.run(
            call, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=PATIENCE,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise NotAble(f"`{name}` does not answer: {error}") from error
    if done.returncode:
        raise NotAble(f"`{name}` failed ({done.returncode}): {done.stderr.strip()[:400]}")
