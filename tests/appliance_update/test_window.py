"""Maintenance windows: what the clinic's wall clock shows, at every edge that a time zone has."""

from __future__ import annotations

import datetime
import zoneinfo
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_update.config import ConfigError, load
from appliance_update.window import DAYS, Window

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone), fold=fold).timestamp()


# -- the plain cases --------------------------------------------------------------------------------------------------


def test_without_start_and_end_it_is_always_open() -> None:
    assert Window().open_at(0.0)
    assert Window().next_open(7.0) == 7.0


@pytest.mark.parametrize(
    "time, is_open", [("22:59", False), ("23:00", True), ("00:00", True), ("03:59", True), ("04:00", False)]
)
def test_a_window_goes_over_midnight(time: str, is_open: bool) -> None:
    assert Window("23:00", "04:00").open_at(at(f"2026-11-21T{time}")) is is_open


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    window = Window("23:00", "04:00", days=("sat",))
    assert window.open_at(at("2026-11-21T23:30"))  # a Saturday
    assert window.open_at(at("2026-11-22T03:30"))
    assert not window.open_at(at("2026-11-21T03:30"))
    assert not window.open_at(at("2026-11-22T23:30"))


def test_days_alone_mean_the_whole_day() -> None:
    window = Window(days=("sun",))
    assert [window.open_at(at(f"2026-11-{day}T12:00")) for day in (21, 22, 23)] == [False, True, False]
    assert window.next_open(at("2026-11-21T12:00")) == at("2026-11-22T00:00")


def test_equal_start_and_end_are_a_day_and_not_never() -> None:
    assert all(Window("02:00", "02:00").open_at(at(f"2026-11-21T{hour:02}:30")) for hour in range(24))


def test_the_zone_is_the_sites() -> None:
    window = Window("02:00", "04:00", "America/New_York")
    assert window.open_at(at("2026-11-21T07:30"))
    assert not window.open_at(at("2026-11-21T02:30"))


# -- when clocks are set ----------------------------------------------------------------------------------------------


def test_a_skipped_hour_is_left_out_and_never_made_up_for_in_the_morning() -> None:
    """New York, 2026-03-08: 02:00 becomes 03:00. The clinic opens at 4."""
    window = Window("02:00", "04:00", "America/New_York")
    change = at("2026-03-08T07:00")
    assert not window.open_at(change - 1)
    assert window.open_at(change)
    assert not window.open_at(change + HOUR)


def test_a_window_that_is_skipped_wholly_opens_on_the_next_day() -> None:
    window = Window("02:00", "03:00", "America/New_York")
    opens = window.next_open(at("2026-03-08T00:00", "America/New_York"))
    assert opens == at("2026-03-09T02:00", "America/New_York")


def test_a_window_of_one_weekday_that_is_skipped_wholly_opens_a_week_later() -> None:
    window = Window("02:00", "03:00", "America/New_York", days=("sun",))
    opens = window.next_open(at("2026-03-07T00:00", "America/New_York"))
    assert opens == at("2026-03-15T02:00", "America/New_York")


def test_a_window_whose_start_is_skipped_opens_when_the_clocks_are_set() -> None:
    window = Window("02:30", "05:00", "America/New_York")
    assert window.next_open(at("2026-03-08T00:00", "America/New_York")) == at("2026-03-08T07:00")


def test_a_repeated_hour_is_open_twice_and_nothing_in_between() -> None:
    """New York, 2026-11-01: 02:00 becomes 01:00."""
    window = Window("01:30", "01:45", "America/New_York")
    first, second = (at("2026-11-01T01:30", "America/New_York", fold) for fold in (0, 1))
    assert second - first == HOUR
    assert window.open_at(first) and window.open_at(second)
    assert not window.open_at(first + 20 * MINUTE)
    assert window.next_open(first + 20 * MINUTE) == second


def test_a_window_over_a_midnight_that_is_skipped() -> None:
    """Santiago, 2026-09-06: 00:00 becomes 01:00."""
    window = Window("23:30", "00:30", "America/Santiago")
    assert window.open_at(at("2026-09-05T23:59", "America/Santiago"))
    assert not window.open_at(at("2026-09-05T23:59", "America/Santiago") + MINUTE)


ZONES = st.sampled_from(
    ("UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "America/Santiago", "America/Havana",
     "Asia/Kathmandu", "Pacific/Apia", "Africa/Casablanca", "Asia/Beirut")
)  # fmt: skip
CLOCKS = st.integers(0, 24 * 12 - 1).map(lambda step: f"{step // 12:02}:{step % 12 * 5:02}")
TIMES = st.integers(int(at("2026-01-01T00:00")), int(at("2028-01-01T00:00"))).map(float)
WINDOWS = st.builds(
    Window, start=CLOCKS, end=CLOCKS, time_zone=ZONES, days=st.lists(st.sampled_from(DAYS), unique=True).map(tuple)
)


def wall_says_open(window: Window, seconds: float) -> bool:
    """The definition, minute by minute: is there a meant day whose window, read off a wall clock, has this time?"""
    now = datetime.datetime.fromtimestamp(seconds, zoneinfo.ZoneInfo(window.time_zone)).replace(tzinfo=None, fold=0)
    for back in (0, 1):
        day = now.date() - datetime.timedelta(days=back)
        begin = datetime.datetime.combine(day, datetime.time.fromisoformat(window.start))
        end = datetime.datetime.combine(day, datetime.time.fromisoformat(window.end))
        end += datetime.timedelta(days=end <= begin)
        if begin <= now < end and (not window.days or DAYS[day.weekday()] in window.days):
            return True
    return False


@given(WINDOWS, TIMES)
def test_it_is_open_when_the_wall_clock_says_so(window: Window, seconds: float) -> None:
    assert window.open_at(seconds) == wall_says_open(window, seconds)


@given(WINDOWS, TIMES)
def test_the_next_opening_is_the_first_open_minute(window: Window, seconds: float) -> None:
    opens = window.next_open(seconds)
    minute = seconds - seconds % MINUTE + MINUTE
    if wall_says_open(window, seconds):
        assert opens == seconds
        return
    assert opens is not None and opens > seconds
    assert opens - seconds <= 15 * DAY, "a week, and another one when the first is skipped"
    assert wall_says_open(window, opens)
    while minute < opens:  # nothing earlier is open
        assert not wall_says_open(window, minute)
        minute += 5 * MINUTE if minute % (5 * MINUTE) == 0 else MINUTE


CHANGES = {
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "Australia/Lord_Howe": ("2026-04-04T15:00", "2026-10-03T15:30"),
    "America/Santiago": ("2026-04-05T03:00", "2026-09-06T04:00"),
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00"),
}


@given(st.sampled_from(sorted(CHANGES)), st.integers(0, 1), st.integers(-180, 180), CLOCKS, CLOCKS)
def test_around_a_change_of_the_clocks_too(zone: str, which: int, minutes: int, start: str, end: str) -> None:
    window, seconds = Window(start, end, zone), at(CHANGES[zone][which]) + minutes * MINUTE
    assert window.open_at(seconds) == wall_says_open(window, seconds)
    opens = window.next_open(seconds)
    assert opens is not None
    assert all(not wall_says_open(window, moment) for moment in _minutes(seconds, opens))


def _minutes(begin: float, end: float) -> list[float]:
    return [begin + step * MINUTE for step in range(int((end - begin) // MINUTE))]


# -- the configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, key",
    [
        ('start = "25:00"\nend = "04:00"', "start"),
        ('start = "02:00"', "end"),
        ('start = "2"\nend = "4"', "start"),
        ('days = ["saturday"]', "days"),
        ('time_zone = "Mars/Olympus"', "time_zone"),
        ("maximum_postponement_days = -1.0", "maximum_postponement_days"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused_with_its_key(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[window]\n{text}\n")
    with pytest.raises(ConfigError, match=key):
        load(path)
