"""The small rules everything else stands on: codes, MAC addresses, hostile text, rates, settings."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from central_command import identifiers, settings
from central_command.foreign import clean, normalise_mac, normalise_macs
from central_command.limits import RateLimiter
from central_command.problems import ProblemError
from central_command.settings import Settings, SettingsError

ETC = Path(__file__).parents[2] / "central" / "etc" / "config.toml"


@given(st.text())
def test_cleaned_text_is_one_harmless_line_within_its_limit(text: str) -> None:
    cleaned = clean(text, 50)
    assert len(cleaned) <= 50
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") for letter in cleaned)
    assert clean(cleaned, 50) == cleaned
    cleaned.encode()


@given(st.text(alphabet=st.characters(whitelist_categories=("L", "N", "P")), max_size=40))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@given(st.binary(min_size=6, max_size=6), st.sampled_from([":", "-", "", "."]), st.booleans())
def test_every_spelling_of_a_mac_address_is_one_address(raw: bytes, separator: str, upper: bool) -> None:
    text = raw.hex(":").replace(":", separator) if separator != "." else ".".join(raw.hex(" ", 2).split())
    expected = None if raw in (b"\0" * 6, b"\xff" * 6) else raw.hex(":")
    assert normalise_mac(text.upper() if upper else text) == expected


@given(st.lists(st.text(max_size=30)))
def test_what_is_no_mac_address_is_left_out(texts: list[str]) -> None:
    assert all(normalise_mac(mac) == mac for mac in normalise_macs(texts))


def test_codes_are_random_and_read_the_way_they_are_misread() -> None:
    codes = {identifiers.new_code() for _ in range(200)}
    assert len(codes) == 200
    for code in codes:
        bare = code.replace("-", "")
        assert len(bare) == 16 and not set(bare) & set("ILOU")
        assert identifiers.normalise_code(code.lower()) == bare
        assert identifiers.normalise_code(bare.replace("0", "o").replace("1", "I")) == bare


@given(st.text())
def test_what_is_no_code_is_none(text: str) -> None:
    code = identifiers.normalise_code(text)
    assert code is None or (len(code) == 16 and set(code) <= set(identifiers.CROCKFORD))


def test_a_rate_limiter_lets_a_burst_through_and_then_says_how_long_to_wait() -> None:
    limiter = RateLimiter(rate=0.5, burst=3)
    assert [limiter.wait("a") for _ in range(3)] == [0, 0, 0]
    assert 0 < limiter.wait("a") <= 2
    assert limiter.wait("b") == 0
    with pytest.raises(ProblemError):
        limiter.exhausted("a")
    limiter.exhausted("b")


def test_a_rate_limiter_remembers_a_bounded_number_of_clients() -> None:
    limiter = RateLimiter(rate=1, burst=1)
    for number in range(25_000):
        limiter.wait(str(number))
    assert len(limiter._buckets) == 20_000


def test_the_shipped_configuration_is_the_default_one_and_knows_every_key() -> None:
    found, warnings = settings.load(ETC, {})
    assert warnings == [] and found == Settings()
    text = ETC.read_text()
    for name in (*Settings.__dataclass_fields__, *settings.Limits.__dataclass_fields__):
        assert f"{name} = " in text or name == "limits", name


def test_unknown_keys_warn_and_missing_ones_have_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("port = 1\nfuture = true\n[limits]\nconnections = 5\nodd = 1\n")
    found, warnings = settings.load(path, {})
    assert (found.port, found.limits.connections, found.limits.device_burst) == (1, 5, 30)
    assert len(warnings) == 2 and "future" in warnings[0] and "limits.odd" in warnings[1]


@pytest.mark.parametrize("text, word", [
    ("port = 'x'", "port"), ("port = 99999", "port"), ("tls_cert = 'a'", "tls_key"), ("host = '0.0.0.0'", "plain HTTP"),
    ("checkin_interval = 0", "checkin_interval"), ("port = ", "config.toml"),
    ("[limits]\nconnections = 'many'", "connections"),
])
def test_an_unusable_setting_is_named_with_its_reason(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=word):
        settings.load(path, {})


def test_the_environment_and_the_command_line_win(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("database_url = 'sqlite:////a.db'\nport = 1\n")
    found, _ = settings.load(path, {"DATABASE_URL": "postgresql://h/db"}, port=2, host=None)
    assert (found.database, found.port, found.host) == ("postgresql://h/db", 2, "127.0.0.1")


@given(st.binary(max_size=200))
def test_any_configuration_file_is_read_or_refused(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(content)
        file.flush()
        try:
            assert isinstance(settings.load(Path(file.name), {})[0], Settings)
        except SettingsError as error:
            assert str(error)
