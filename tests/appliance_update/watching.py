"""The watch of a simulated host, put together from its updater's parts."""

from __future__ import annotations

from collections.abc import Callable

from appliance_update.updater import Updater
from appliance_update.watch import Watch, standby_of

CRASHING = {"agent.service": {"ActiveState": "failed", "SubState": "failed", "NRestarts": "9"}}


def watch_of(updater: Updater, reboot: Callable[[bool], None], **parts: object) -> Watch:
    """By default every unit is well, and so is the network."""
    usual: dict[str, object] = {"units": lambda _units: {}, "trouble": lambda: "", "uptime": lambda: 1000.0}
    standby = standby_of(updater.config, updater.host, updater.layout, updater.store)
    return Watch(updater.host, updater.config, updater.store, standby, reboot, **(usual | parts))  # type: ignore[arg-type]
