"""The clock is not before the image was built (a day's grace for time zones and slow builders)."""

from __future__ import annotations

import time

from appliance_update.clock import spoken
from appliance_update.config import Config
from appliance_update.host import Host

GRACE = 24 * 3600.0


def check(config: Config, host: Host) -> str | None:
    """systemd itself raises a clock below its own epoch, so this fails only where that did not work."""
    built = host.build_time()
    now = time.time()
    if now < built - GRACE:
        return f"The clock says {spoken(now)}, the image was built at {spoken(built)}"
    return None
