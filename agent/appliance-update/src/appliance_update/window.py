"""Maintenance windows: when the device may reboot into a new version.

A window is what the clinic's wall clock shows, so it is never open outside the hours somebody wrote down, whatever the
clocks are set to that night: an hour that is repeated in autumn is open twice, an hour that is skipped in spring is
left out. What waits too long goes ahead all the same (`maximum_postponement_days`).
"""

from __future__ import annotations

import datetime
import re
import zoneinfo
from dataclasses import dataclass

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
DAY = 86400.0
AHEAD = 16
"""Days in which every window opens at least once, a weekly one that is skipped included."""


class WindowError(ValueError):
    """A window that cannot be used; the message says which key and why."""


@dataclass(frozen=True)
class Window:
    """When the device may reboot into a new version. Without `start` and `end`: at any time of the `days`.

    `start` and `end` are HH:MM in `time_zone` (IANA name); a window may go over midnight and belongs to the day on
    which it begins; equal ones mean the whole day. `days` are mon … sun; empty: every day.
    """

    start: str = ""
    end: str = ""
    time_zone: str = "UTC"
    days: tuple[str, ...] = ()
    maximum_postponement_days: float = 14.0

    @property
    def always(self) -> bool:
        """Whether there is nothing to wait for."""
        return not self.start and not self.end and not self.days

    def check(self) -> None:
        """Raise `WindowError` for a window that makes no sense."""
        self._zone()
        for key, text in (("start", self.start), ("end", self.end)):
            if bool(self.start) != bool(self.end) or (text and not CLOCK.fullmatch(text)):
                raise WindowError(f"[window] {key}: {text!r}; start and end are HH:MM, both or neither")
        unknown = [day for day in self.days if day not in DAYS]
        if unknown:
            raise WindowError(f"[window] days: {unknown[0]!r}; they are {', '.join(DAYS)}")
        if not 0 <= self.maximum_postponement_days <= 366:
            raise WindowError("[window] maximum_postponement_days: 0 to 366")

    def open_at(self, seconds: float) -> bool:
        """Whether the window is open at a time given in seconds since the epoch. Raises `WindowError`."""
        if self.always:
            return True
        now = _local(seconds, self._zone())
        start, end = self._hours()
        today, yesterday = (self._meant(now.date() - datetime.timedelta(days=back)) for back in (0, 1))
        if start < end:
            return today and start <= now.time() < end
        return (today and now.time() >= start) or (yesterday and now.time() < end)

    def next_open(self, seconds: float) -> float | None:
        """The first time from `seconds` on at which the window is open; None when it never is (all of it skipped)."""
        if self.open_at(seconds):
            return seconds
        zone, (start, _) = self._zone(), self._hours()
        first = _local(seconds, zone).date()
        moments: set[float] = set()  # only two things can open it: its start, or clocks that are set
        for ahead in range(-1, AHEAD):
            wall = datetime.datetime.combine(first + datetime.timedelta(days=ahead), start)
            begins = _moments(wall, zone)
            moments |= begins | _changes(min(begins) - DAY, max(begins), zone)
        return next((moment for moment in sorted(moments) if moment > seconds and self.open_at(moment)), None)

    def _meant(self, day: datetime.date) -> bool:
        return not self.days or DAYS[day.weekday()] in self.days

    def _hours(self) -> tuple[datetime.time, datetime.time]:
        if not self.start:
            return datetime.time(), datetime.time()
        return datetime.time.fromisoformat(self.start), datetime.time.fromisoformat(self.end)

    def _zone(self) -> zoneinfo.ZoneInfo:
        try:
            return zoneinfo.ZoneInfo(self.time_zone)
        except (ValueError, zoneinfo.ZoneInfoNotFoundError, OSError) as error:
            raise WindowError(f"[window] time_zone: {self.time_zone!r} is not like America/New_York") from error


def _local(seconds: float, zone: zoneinfo.ZoneInfo) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(min(max(seconds, 0.0), 253370764800.0), zone)


def _moments(wall: datetime.datetime, zone: zoneinfo.ZoneInfo) -> set[float]:
    """The moments at which the wall clock shows `wall`: two when it is repeated; around the gap when it is skipped."""
    return {wall.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1)}


def _changes(after: float, until: float, zone: zoneinfo.ZoneInfo) -> set[float]:
    """When the clocks are set between two times about a day apart, to the second; at most one change is found."""

    def offset(at: float) -> datetime.timedelta | None:
        return _local(at, zone).utcoffset()

    low, high = int(after), int(until)
    if offset(low) == offset(high):
        return set()
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
    return {float(high)}
