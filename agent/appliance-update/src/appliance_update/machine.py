"""Everything put together for the machine we run on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from appliance_update import layout as layouts
from appliance_update import web
from appliance_update.config import Config
from appliance_update.host import Host
from appliance_update.install import Installer, Sysupdate, Writer
from appliance_update.repository import Repository
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
) -> Updater:
    """An updater for this configuration; the arguments replace parts of it. Raises `layout.LayoutError`."""
    host = host or Host()
    state, runtime = Path(config.paths.state), Path(config.paths.runtime)
    layout = layouts.load(Path(config.paths.layout))
    client = web.session(f"appliance-update/{host.image_version or 'unknown'}")
    repository = Repository(config.repository, state / "tuf", Path(config.paths.trusted_root), client)
    transfer = Transfer(repository, layout, state / "downloads", state / "staging", pause)
    installer = Installer(host, layout, transfer, writer or Sysupdate(config.paths.sysupdate), runtime / "definitions")
    store = Store(state, runtime, now)
    snapshots = Snapshots(host, state / "snapshots", config.snapshot.databases)
    reboot = reboot or systemctl_reboot
    return Updater(host, layout, config, store, repository, transfer, installer, snapshots, reboot)


def systemctl_reboot(respect_inhibitors: bool) -> None:
    """Ask systemd to reboot. Raises `OSError` with its answer when it does not."""
    call = ["systemctl", f"--check-inhibitors={'yes' if respect_inhibitors else 'no'}", "--no-ask-password", "reboot"]
    try:
        done = subprocess.run(call, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise OSError("systemctl did not answer in 60 s") from error
    if done.returncode:
        raise OSError((done.stderr or done.stdout).strip()[:300] or f"systemctl ended with {done.returncode}")
