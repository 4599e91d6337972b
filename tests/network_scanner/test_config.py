"""The configuration: clear about what is wrong, forgiving about what it does not know."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from network_scanner.config import Config, ConfigError, Exclusions, is_quiet, load, parse

SHIPPED = Path(__file__).parents[2] / "agent/network-scanner/etc/config.toml"


def test_the_shipped_file_is_the_defaults() -> None:
    loaded = load(SHIPPED)
    assert loaded.config == Config()
    assert loaded.warnings == ()


def test_an_unknown_key_warns_and_everything_else_counts() -> None:
    loaded = parse(b'interface = "eth1"\ncolour = "red"\n[rate]\nburst = 5\npackets_per_second = 50\n')
    assert loaded.config.interface == "eth1"
    assert loaded.config.rate.packets_per_second == 50
    assert ["'colour'" in loaded.warnings[0], "'rate.burst'" in loaded.warnings[1]] == [True, True]


@pytest.mark.parametrize(("text", "key", "reason"), [
    ('interface = 5', "interface", "Expected `str`"),
    ('[rate]\npackets_per_second = 500', "rate.packets_per_second", "between 10 and 100"),
    ('[rate]\npackets_per_second_per_host = 11', "rate.packets_per_second_per_host", "between 5 and 10"),
    ('[rate]\npackets_per_second = "fast"', "rate.packets_per_second", "Expected `int`"),
    ('exclude = ["printer"]', "exclude", "neither a MAC address"),
    ('exclude = "10.0.0.1"', "exclude", "Expected"),
    ('networks = ["10.0.0.0/40"]', "networks", "not an IPv4 network"),
    ('[schedule]\nquiet_hours = ["late"]', "schedule.quiet_hours", "HH:MM-HH:MM"),
    ('[schedule]\njitter = 7.0', "schedule.jitter", "between"),
    ('probing = 1', "probing", "Expected"),
    ('interface = ', "", "not valid TOML"),
])
def test_an_error_names_file_key_and_reason(text: str, key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "config.toml")
    assert all(part in str(caught.value) for part in ("config.toml", key, reason)), str(caught.value)


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))))
@settings(max_examples=200, deadline=None)
def test_any_file_is_read_or_refused(raw: bytes) -> None:
    try:
        parse(raw)
    except ConfigError:
        return


def test_a_missing_and_an_oversized_file_are_errors_with_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load(tmp_path / "none.toml")
    big = tmp_path / "big.toml"
    big.write_text("#" * 300_000)
    with pytest.raises(ConfigError, match="more than a configuration needs"):
        load(big)


def test_exclusions_take_addresses_networks_and_any_spelling_of_a_mac() -> None:
    config = parse(b'exclude = ["10.0.0.5", "10.0.1.0/28", "00-09-FB-12-34-56", "0009.fb12.3457"]').config
    excluded = Exclusions.of(config)
    assert all((excluded.covers("", "10.0.0.5"), excluded.covers("", "10.0.1.15"),
                excluded.covers("00:09:fb:12:34:56", ""), excluded.covers("00:09:fb:12:34:57", "")))
    assert not excluded.covers("00:09:fb:12:34:58", "10.0.1.16")
    assert not excluded.covers("", "fe80::1")


@pytest.mark.parametrize(("span", "clock", "quiet"), [
    ("22:00-06:00", "23:30", True), ("22:00-06:00", "05:59", True), ("22:00-06:00", "06:00", False),
    ("08:00-18:00", "08:00", True), ("08:00-18:00", "18:00", False), ("08:00-18:00", "07:59", False),
])
def test_quiet_hours_work_across_midnight(span: str, clock: str, quiet: bool) -> None:
    schedule = parse(f'[schedule]\nquiet_hours = ["{span}"]'.encode()).config.schedule
    now = datetime.datetime.combine(datetime.date(2026, 3, 1), datetime.time.fromisoformat(clock))
    assert is_quiet(schedule, now) is quiet
