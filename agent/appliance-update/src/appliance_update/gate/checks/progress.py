"""The compliance agent's loop moves: its progress file was written in this boot, and lately."""

from __future__ import annotations

import time

from appliance_update.config import Config
from appliance_update.host import Host


def check(config: Config, host: Host) -> str | None:
    """Age is measured against the wall clock; a file from the future counts as fresh (the clock was just set)."""
    gate = config.gate
    if not gate.progress_file:
        return None
    try:
        age = time.time() - host.path(gate.progress_file).stat().st_mtime
    except OSError as error:
        return f"The agent has made no progress yet: {gate.progress_file}: {error.strerror}"
    if age > gate.progress_within:
        return f"The agent's last progress is {age:.0f} s old, {gate.progress_within:.0f} s are allowed"
    return None
