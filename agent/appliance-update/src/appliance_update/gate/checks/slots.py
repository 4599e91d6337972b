"""Both slots are there, and it can be told which of them runs: else nothing could ever be installed again."""

from __future__ import annotations

from pathlib import Path

from appliance_update import layout as layouts
from appliance_update.config import Config
from appliance_update.device import DeviceError, inspect
from appliance_update.gate.checks import Hopeless
from appliance_update.host import Host


def check(config: Config, host: Host) -> str | None:
    """The other slot may still be in the making on a first boot, and the ESP may not be mounted yet: that waits."""
    if not config.gate.slots:
        return None
    try:
        inspect(host, layouts.load(Path(config.paths.layout)))
    except layouts.LayoutError as error:
        return Hopeless(f"The description of the disk cannot be used: {error}")
    except DeviceError as error:
        return str(error)
    return None
