"""Whether a device is there. It takes several missed sweeps to change, so that a doze is not a departure."""

from __future__ import annotations

from appliance_protocol.inventory import Presence

SLEEPING_AFTER = 2
"""Completed sweeps missed in a row before a device counts as sleeping."""
AWAY_AFTER = 6
"""Missed sweeps before it counts as away; it must also have been silent for `AWAY_SECONDS`."""
AWAY_SECONDS = 3600.0
GONE_SECONDS = 14 * 86400.0


def presence(missed: int, silent: float) -> Presence:
    """Presence after `missed` completed sweeps in a row without an answer and `silent` seconds without any sign.

    Sweeps that failed (link down, paused) are not counted: our own absence says nothing of others.
    """
    if missed < SLEEPING_AFTER:
        return Presence.UP
    if missed < AWAY_AFTER or silent < AWAY_SECONDS:
        return Presence.SLEEPING
    return Presence.GONE if silent >= GONE_SECONDS else Presence.AWAY
