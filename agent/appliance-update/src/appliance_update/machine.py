"""Everything put together for the machine we run on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from appliance_update import layout as layouts
from appliance_update import web
from appliance_update.config import Config
from appliance_update.generations import GenerationUpdater
from appliance_update.host import Host
from appliance_update.install import Installer, Sysupdate, Writer
from appliance_update.nix_store import Commands, Nix
from appliance_update.reboot import systemctl_reboot
from appliance_update.repository import Repository
from appliance_update.seeds import Indexes, Installed
from appliance_update.snapshots import Snapshots
from appliance_update.store import Store
from appliance_update.transfer import Transfer
from appliance_update.updater import Updater


def assemble(
    config: Config,
    *,
    host: Host | None = None,
    writer: Writer | None = None,
    reboot: Callable[[bool], None] | None = None,
    now: Callable[[], float] = time.time,
    pause: Callable[[float], None] = time.sleep,
    nix: Nix | None = None,
) -> Updater:
    """An updater for this configuration; the arguments replace parts of it. Raises `layout.LayoutError`."""
    host = host or Host()
    state, runtime = Path(config.paths.state), Path(config.paths.runtime)
    layout = layouts.load(Path(config.paths.layout))
    fetching = config.transfer
    agent = f"appliance-update/{host.image_version or 'unknown'}"
    client = web.session(agent, fetching.proxy, fetching.bytes_per_second)
    repository = Repository(config.repository, state / "tuf", Path(config.paths.trusted_root), client)
    installed = Installed(host, layout, Indexes(state / "indexes"))
    transfer = Transfer(repository, layout, state / "downloads", state / "staging", pause, installed)
    installer = Installer(host, layout, transfer, writer or Sysupdate(config.paths.sysupdate), runtime / "definitions")
    store = Store(state, runtime, now)
    snapshots = Snapshots(host, state / "snapshots", config.snapshot.databases)
    reboot = reboot or systemctl_reboot
    parts = (host, layout, config, store, repository, transfer, installer, snapshots, reboot)
    if config.generations.enable:
        return GenerationUpdater(*parts, nix=nix or Commands(config.generations.substituters))
    return Updater(*parts)
