"""The time, on a machine whose clock may say 1970."""

from __future__ import annotations

import datetime
import time


def trusted_time(clock: float, build_time: float) -> float:
    """The later of what the clock says and when the image was built, in seconds since the epoch.

    Where signatures are judged, what they say themselves is added (`tuf_client`); a site's hours are not kept by that:
    a publisher whose clock runs ahead would make time stand still until then.
    """
    return max(clock, build_time)


def boot_clock() -> float:
    """Seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def as_datetime(seconds: float) -> datetime.datetime:
    """Seconds since the epoch as an aware UTC time, held within what datetime can carry."""
    return datetime.datetime.fromtimestamp(min(max(seconds, 0.0), 253402300799.0), tz=datetime.UTC)


def spoken(seconds: float) -> str:
    """A time for people: 2026-11-21 10:48 UTC."""
    return as_datetime(seconds).strftime("%Y-%m-%d %H:%M UTC")
