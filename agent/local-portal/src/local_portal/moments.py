"""Times and amounts in words a person reads without thinking."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from markupsafe import Markup

MINUTE, HOUR, DAY = 60, 3600, 86400


def parse(value: float | int | str | None) -> float | None:
    """Seconds since the epoch from a number or an ISO 8601 text; None for everything that is no time."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def local(at: float) -> datetime | None:
    """The time in the appliance's own zone; None when no calendar has it."""
    try:
        return datetime.fromtimestamp(at, UTC).astimezone()
    except (OverflowError, OSError, ValueError):
        return None


def moment(at: float | None, now: float) -> Markup:
    """A `<time>`: day and time, the year only when it is another one; the exact time as the tooltip."""
    when = None if at is None else local(at)
    if when is None:
        return Markup("never") if at is None else Markup("an impossible time")
    today = local(now)
    if today is not None and when.date() == today.date():
        text = f"today, {when:%H:%M}"
    elif today is not None and when.year == today.year:
        text = f"{when.day} {when:%B, %H:%M}"
    else:
        text = f"{when.day} {when:%B %Y, %H:%M}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        when.isoformat(timespec="seconds"), f"{when:%Y-%m-%d %H:%M:%S %Z}", text
    )


def duration(seconds: float) -> str:
    """`45 seconds`, `3 minutes`, `2 hours`, `9 days`: one unit, rounded down."""
    if not math.isfinite(seconds):
        return "an unknown time"
    for size, unit in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    count = max(0, int(seconds))
    return f"{count} second{'' if count == 1 else 's'}"


def ago(at: float | None, now: float) -> str:
    """`3 minutes ago`, `just now`, `in 2 hours`, `never`."""
    if at is None:
        return "never"
    age = now - at
    if abs(age) < 10:
        return "just now"
    return f"{duration(age)} ago" if age > 0 else f"in {duration(-age)}"


def size(count: float | int | None) -> str:
    """Bytes in binary units."""
    if count is None or not math.isfinite(count) or count < 0:
        return "unknown"
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 device`, `2 devices`."""
    return f"{count} {one if count == 1 else many or one + 's'}"
