"""How times, durations and scores are written for people, on pages and on the command line."""

from __future__ import annotations

import datetime
import time

from appliance_protocol.verdict import Score


def _moment(at: float | None) -> datetime.datetime | None:
    try:
        return None if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return None


def when(at: float | None) -> str:
    """A time in UTC to the second, or a dash; `at` may be anything a device's clock says."""
    moment = _moment(at)
    return "—" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def iso(at: float | None) -> str:
    """The same for machines."""
    moment = _moment(at)
    return "" if moment is None else moment.isoformat(timespec="seconds")


def span(seconds: float | None) -> str:
    """A duration a person can read at a glance: `42 s`, `5 min`, `3 h`, `12 d`."""
    if seconds is None:
        return "—"
    size = abs(seconds)
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if size < limit:
            return f"{size / unit:.0f} {name}"
    return f"{size / 86400:.0f} d" if size < 1e11 else "very long"


def ago(at: float | None) -> str:
    """How long ago, by the server's clock."""
    if at is None:
        return "never"
    return "just now" if time.time() - at < 1 else f"{span(time.time() - at)} ago"


def percent(score: Score) -> str:
    """The score as text; a score of nothing is no score."""
    return "no score" if score.percent is None else f"{score.percent} %"
