"""The programs that the updater calls are there: without them this system could not be replaced."""

from __future__ import annotations

import os
import shutil

from appliance_update.config import Config
from appliance_update.gate.checks import Hopeless
from appliance_update.host import Host

ALWAYS = ("systemctl", "journalctl")
FOR_SLOTS = ("zstd",)


def check(config: Config, host: Host) -> str | None:
    """A program missing from an image stays missing."""
    missing = [name for name in (*ALWAYS, *(FOR_SLOTS if config.gate.slots else ())) if shutil.which(name) is None]
    if config.gate.slots and not os.access(host.path(config.paths.sysupdate), os.X_OK):
        missing.append(config.paths.sysupdate)
    return Hopeless(f"The updater's programs are missing: {', '.join(missing)}") if missing else None
