"""The boot loader counts a system that has not proved itself: else nothing but ourselves could bring the old one back.

A read-only bit on the UKI's file, or EFI variables that cannot be written, make the loader boot without counting.
"""

from __future__ import annotations

from pathlib import Path

from appliance_update import layout as layouts
from appliance_update.config import Config
from appliance_update.device import DeviceError, inspect
from appliance_update.entries import of_version
from appliance_update.gate.checks import Hopeless
from appliance_update.host import Host


def check(config: Config, host: Host) -> str | None:
    """Only where there are slots; a system whose entry carries no counter was blessed and is not counted any more."""
    if not config.gate.slots or host.counting:
        return None
    try:
        device = inspect(host, layouts.load(Path(config.paths.layout)))
    except (layouts.LayoutError, DeviceError):
        return None  # `slots` says so
    own = [entry for entry in of_version(device.entries, device.version) if not entry.blessed]
    if not own:
        return None
    return Hopeless(
        f"The boot loader did not count this boot of {device.version} ({own[0].path.name}): is the file read-only, "
        "or the firmware's variable store full?"
    )
