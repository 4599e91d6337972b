"""Reading forms: small, well-formed, in time, and with the token that only our own pages know."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

MAX_BODY = 16 * 1024
MAX_FIELDS = 20
PATIENCE = 10.0
"""Seconds in which the whole form must have arrived."""


class FormError(ValueError):
    """A form that is not read; `status` is the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def token(secret: bytes, cookie: str) -> str:
    """The form token that belongs to a cookie: nobody can make it without our key, nor move it to another cookie."""
    return hmac.new(secret, b"form:" + cookie.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


async def read(request: Request, expected_token: str) -> dict[str, str]:
    """The fields of a form whose token is right. Raises `FormError`."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise FormError(415, "Only ordinary forms are read here.")
    raw = await _body(request)
    try:
        pairs = parse_qsl(
            raw.decode("utf-8"), keep_blank_values=True, strict_parsing=bool(raw), encoding="utf-8", errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except (ValueError, UnicodeError) as error:
        raise FormError(400, "The form is malformed.") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise FormError(400, "The form names a field twice.")
    if not hmac.compare_digest(fields.get("token", "").encode("utf-8", "replace"), expected_token.encode()):
        raise FormError(403, "This page was open for too long, or the form came from elsewhere. "
                             "Go back, reload, try again.")
    return fields


async def _body(request: Request) -> bytes:
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit() and len(declared) < 12):
        raise FormError(400, "The form is malformed.")
    if int(declared) > MAX_BODY:
        raise FormError(413, f"The form is larger than {MAX_BODY} bytes.")
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY:
                    raise FormError(413, f"The form is larger than {MAX_BODY} bytes.")
    except TimeoutError as error:
        raise FormError(408, "The form did not arrive in time.") from error
    except ClientDisconnect as error:
        raise FormError(400, "The form did not arrive whole.") from error
    return bytes(body)
