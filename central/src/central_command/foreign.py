"""Text that a device, and so perhaps an attacker, has written: made safe to store, show and print."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

MAX_TEXT = 400
_UNSAFE = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
_MAC = re.compile(r"[0-9a-f]{12}")
MAX_MAC_ADDRESSES = 16


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """`text` on one line without control, format (bidi, zero width), private or surrogate characters, shortened.

    Escaping for HTML is the template's work; this is about what escaping leaves in: ANSI, NUL, bidi overrides.
    """
    if len(text) <= limit and text.isprintable() and "  " not in text and text.strip() == text:
        return text  # nearly all text: printable excludes every category below, and unassigned letters
    kept = "".join(_printable(letter) for letter in text[: limit * 2])
    kept = " ".join(kept.split())
    return kept if len(kept) <= limit and len(text) <= limit * 2 else kept[: limit - 1] + "…"


def _printable(letter: str) -> str:
    if letter in "\t\r\n\v\f":
        return " "
    return "" if unicodedata.category(letter) in _UNSAFE else letter


def is_id(text: str) -> bool:
    """Whether `text` could be one of our ids: what could not is never shown to a database."""
    return 0 < len(text) <= 80 and text.isascii() and text.isprintable()


def normalise_mac(text: str) -> str | None:
    """The one form of a MAC address (lower case, colons) for all it comes in; None when it is not one."""
    bare = re.sub(r"[:.\-\s]", "", text[:40].lower())
    if not _MAC.fullmatch(bare) or bare in ("000000000000", "ffffffffffff"):
        return None
    return ":".join(bare[start : start + 2] for start in range(0, 12, 2))


def normalise_macs(texts: Iterable[str]) -> list[str]:
    """Every MAC address among `texts`, once, in order; what is none is left out."""
    found = (normalise_mac(text) for text in texts)
    return list(dict.fromkeys(mac for mac in found if mac))[:MAX_MAC_ADDRESSES]
