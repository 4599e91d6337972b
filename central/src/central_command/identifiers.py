"""Names the server gives out: opaque ids, one-time codes, session tokens."""

from __future__ import annotations

import hashlib
import secrets
import uuid

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Douglas Crockford's base 32: no I, L, O, U (https://www.crockford.com/base32.html)."""

CODE_LENGTH = 16
_MISREAD = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


def new_id(kind: str) -> str:
    """An opaque id such as `dev_0f3a…`: 122 random bits, nothing in it can be derived from the thing it names."""
    return f"{kind}_{uuid.uuid4().hex}"


def new_code() -> str:
    """An enrolment code: 80 random bits, in groups of four so that it can be read out over the telephone."""
    text = "".join(secrets.choice(CROCKFORD) for _ in range(CODE_LENGTH))
    return "-".join(text[start : start + 4] for start in range(0, CODE_LENGTH, 4))


def normalise_code(text: str) -> str | None:
    """The code without case, hyphens, spaces and the usual misreadings; None when it cannot be one."""
    code = text[:64].upper().translate(_MISREAD)
    return code if len(code) == CODE_LENGTH and all(letter in CROCKFORD for letter in code) else None


def new_token() -> str:
    """A bearer or session token: 256 random bits."""
    return secrets.token_urlsafe(32)


def fingerprint(secret: str) -> str:
    """What is stored instead of a random secret. The secrets have 80 bits or more, so no stretching is needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
