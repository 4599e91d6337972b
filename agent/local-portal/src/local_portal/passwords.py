"""Passwords: NIST SP 800-63B-4 section 3.1.1 (15 characters, no composition rules, a blocklist), kept as Argon2id.

Argon2id runs in a child that ends with its answer: the service carries neither libsodium nor what it leaves behind.
"""

from __future__ import annotations

import threading
import unicodedata
from functools import lru_cache
from itertools import pairwise

from local_portal import FOLDER, child

SHORTEST = 15
LONGEST = 256
_one_at_a_time = threading.Lock()


def normalise(password: str) -> str:
    """Unicode NFKC (SP 800-63B-4), so that the same password typed on another keyboard is the same."""
    return unicodedata.normalize("NFKC", password)


def objections(password: str, account: str = "") -> list[str]:
    """Why a new password cannot be taken, each a sentence; empty when it can."""
    text = normalise(password)
    if len(text) < SHORTEST:
        return [f"Use at least {SHORTEST} characters; a few unrelated words are easy to remember. "
                f"This one has {len(text)}."]
    if len(text) > LONGEST:
        return [f"Use at most {LONGEST} characters."]
    folded = text.casefold()
    unit = _unit(folded)
    if folded in _blocklist() or unit in _blocklist():
        return ["This password is on the lists that attackers try first. Choose another."]
    if len(unit) < 6 or len(set(folded)) < 5 or _is_run(folded):
        return ["This password repeats or counts. Choose one that cannot be continued from its beginning."]
    remainder = folded
    for word in ("appliance", "portal", "compliance", "password", "clinic", account.casefold()):
        remainder = remainder.replace(word, "") if len(word) >= 3 else remainder
    if len(remainder) < 8:
        return ["This password is little more than the account's or this product's name. Choose another."]
    return []


def _unit(text: str) -> str:
    """The shortest piece that repeated gives `text`: `abcabc` is `abc` twice."""
    return text[: (text + text).index(text, 1)]


def _is_run(text: str) -> bool:
    steps = {ord(after) - ord(before) for before, after in pairwise(text)}
    return steps <= {1, -9} or steps <= {-1, 9}


@lru_cache(maxsize=1)
def _blocklist() -> frozenset[str]:
    lines = (FOLDER / "passwords.txt").read_text("utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def hash_password(password: str) -> str:
    """The Argon2id hash, in the PHC string form. Blocks; raises `ChildError`."""
    return _argon2("", normalise(password).encode()).decode("ascii")


def verify(password: str, password_hash: str | None) -> bool:
    """Whether the password belongs to the hash. Without one it takes as long: nobody learns which names exist.

    Blocks; raises `ChildError`.
    """
    raw = normalise(password[:LONGEST * 4]).encode("utf-8", "replace")
    return _argon2(password_hash or "", raw) == b"right"


def _argon2(password_hash: str, password: bytes) -> bytes:
    with _one_at_a_time:
        return child.run("local_portal.argon2", password_hash.encode("ascii") + b"\n" + password)
