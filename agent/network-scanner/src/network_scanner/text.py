"""Text that strangers chose (host names, titles, banners), made harmless before anything keeps it."""

from __future__ import annotations

import unicodedata

NAME_LIMIT = 120
"""Longest name that is kept, in characters."""
BANNER_LIMIT = 240
"""Longest banner, title or description that is kept, in characters."""

_DROPPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Control and format characters (ANSI escapes, bidirectional overrides), surrogates, private use, unassigned."""


def clean(text: str | bytes, limit: int = NAME_LIMIT) -> str:
    """What may be kept of `text`: printable characters, single blanks, at most `limit` characters.

    Bytes are read as UTF-8 with replacement. Markup survives as the plain text it is: whoever shows it escapes it.
    """
    if isinstance(text, bytes):
        text = text[: 8 * limit].decode("utf-8", "replace")
    # Eight times the limit is read: enough for a name behind invisible characters, and bounded work for any other.
    kept = "".join(" " if letter.isspace() else letter for letter in text[: 8 * limit] if _keep(letter))
    kept = unicodedata.normalize("NFC", " ".join(kept.split()))
    return kept[:limit].rstrip()


def _keep(letter: str) -> bool:
    return letter.isspace() or unicodedata.category(letter) not in _DROPPED
