"""Making text of strangers harmless to look at: a device on the network chooses its own name."""

from __future__ import annotations

import unicodedata

from markupsafe import Markup, escape

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LONGEST = 2000
"""No single value on a page is longer than this many characters."""

_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_DROPPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def clean(text: str, limit: int = LONGEST) -> str:
    """The text without control characters, direction overrides and other invisible ones, at most `limit` long.

    Line breaks and tabs become spaces. HTML is not escaped here: the templates do that for everything.
    """
    cut = text[: limit + 1]
    shown = "".join(_harmless(char) for char in cut[:limit])
    return shown + "…" if len(cut) > limit else shown


def _harmless(char: str) -> str:
    if char in "\n\r\t":
        return " "
    if char in _JOINERS:
        return char
    return REPLACEMENT if unicodedata.category(char) in _DROPPED else char


def finalize(value: object) -> object:
    """What the templates do with every value they print: `clean` for text that is not markup already."""
    if value is None:
        return ""
    if isinstance(value, str) and not isinstance(value, Markup):
        return clean(str(value))
    return value


def plain(value: str, limit: int = 60, fallback: str = "(no name)") -> str:
    """Foreign text where no markup can stand, as in a page's title."""
    return clean(value, limit).strip() or fallback


def document(value: str, limit: int = 200_000) -> Markup:
    """A whole text with its line breaks, every line of it cleaned."""
    shown = "\n".join(clean(line, 20_000) for line in value[:limit].split("\n"))
    return escape(shown + ("\n…" if len(value) > limit else ""))


def short(value: str, limit: int = 60, fallback: str = "(no name)") -> Markup:
    """Foreign text in its own direction, cut at `limit`, the rest (up to 500 characters) as the tooltip."""
    shown = clean(value, limit).strip() or fallback
    title = clean(value, 500).strip()
    attribute = Markup(' title="{}"').format(title) if title and title != shown else Markup("")
    return Markup('<bdi class="foreign"{}>{}</bdi>').format(attribute, escape(shown))
