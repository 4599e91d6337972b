"""The time to judge signatures by, on a machine whose clock may say 1970."""

from __future__ import annotations

import datetime
import time


def trusted_time(clock: float, build_time: float, last_signed: float) -> float:
    """The latest of what the clock says, when the image was built, and what signed metadata last proved.

    All in seconds since the epoch. Time cannot be before any of them; a clock that runs ahead is not remembered.
    """
    return max(clock, build_time, last_signed)


def wall_time(clock: float, build_time: float) -> float:
    """The time to keep a site's hours by: the clock's, unless it is before the image was built.

    Not what signatures are judged by: a publisher whose clock runs ahead would make time stand still until then.
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
