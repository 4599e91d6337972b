"""Text of strangers: whatever a device calls itself, looking at it does no harm."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_portal import moments, text
from local_portal.web import environment

HOSTILE = '<script>alert(1)</script>"\'><img src=x onerror=alert(1)>\x1b[31mred\x1b]0;title\x07\x00\u202egnp.exe'
anything = st.text(st.characters(codec=None, exclude_categories=()), max_size=300)


@given(anything)
def test_nothing_invisible_or_controlling_survives(value: str) -> None:
    for char in text.clean(value):
        assert char in "\u200c\u200d" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


@given(anything, st.integers(min_value=1, max_value=80))
def test_nothing_is_longer_than_its_limit_and_a_mark_of_what_was_cut(value: str, limit: int) -> None:
    assert len(text.clean(value, limit)) <= limit + 1


@given(anything)
def test_a_shown_name_can_neither_open_a_tag_nor_leave_its_attribute(value: str) -> None:
    markup = str(text.short(value))
    inside = markup.removeprefix('<bdi class="foreign"').removesuffix("</bdi>")
    assert markup.count("<") == 2
    assert inside.replace(' title="', "", 1).count('"') in (0, 1)
    assert markup.encode("utf-8")


@given(anything)
def test_a_template_prints_any_value_escaped_and_clean(value: str) -> None:
    shown = environment().from_string("{{ value }}").render(value=value)
    assert "<" not in shown and "\x1b" not in shown and "\x00" not in shown


def test_a_hostile_name_stays_readable() -> None:
    shown = str(text.short(HOSTILE, 200))
    assert "&lt;script&gt;" in shown
    assert "\x1b" not in shown and "\u202e" not in shown and text.REPLACEMENT in shown


def test_four_kilobytes_are_cut_and_the_rest_is_in_the_tooltip_up_to_a_bound() -> None:
    shown = str(text.short("x" * 4096, 60))
    assert f"{'x' * 60}…</bdi>" in shown
    assert len(shown) < 700


def test_an_empty_name_has_words_for_it() -> None:
    assert "(no name)" in text.short(" \n ")


@given(st.one_of(st.floats(), st.integers(), st.text(max_size=30), st.none()))
def test_any_time_at_all_can_be_shown(value: float | int | str | None) -> None:
    try:
        at = moments.parse(value)
    except OverflowError:  # an integer beyond all floats; the models only let floats through
        return
    assert moments.moment(at, 1.8e9) and moments.ago(at, 1.8e9)


@pytest.mark.parametrize(("seconds", "words"), [
    (0, "0 seconds"), (1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (7199, "1 hour"), (86400 * 9, "9 days")])
def test_durations_have_one_unit(seconds: float, words: str) -> None:
    assert moments.duration(seconds) == words


@pytest.mark.parametrize(("count", "words"), [
    (0, "0 bytes"), (2048, "2.0 KiB"), (3 * 2**30, "3.0 GiB"), (-1, "unknown"), (float("nan"), "unknown"),
    (None, "unknown")])
def test_sizes_have_binary_units(count: float | None, words: str) -> None:
    assert moments.size(count) == words
