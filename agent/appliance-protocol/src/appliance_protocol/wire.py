"""Reading and writing of wire models: JSON in, frozen dataclass out, one clear error for everything else."""

from __future__ import annotations

import json
import threading
from typing import Any, TypeVar

import msgspec
import rfc8785

Model = TypeVar("Model")

MAX_DOCUMENT = 4 * 1024 * 1024
"""Largest JSON document anybody may send us, in bytes."""


_prepared: set[object] = set()
_preparing = threading.Lock()


class WireError(ValueError):
    """A document that cannot be read as what it should be; the message names the place and the reason."""


def prepare(*models: type) -> None:
    """Let msgspec learn how `models` look, one at a time.

    msgspec learns a dataclass when it first reads one, and is not safe for threads while it does: two threads that read
    a model for the first time at the same moment end the process with SIGSEGV (seen with 0.19 and 0.22). `decode` calls
    this by itself; who uses msgspec directly and in threads calls it at import.
    """
    for model in models:
        if model not in _prepared:
            with _preparing:
                msgspec.json.Decoder(model)
                _prepared.add(model)


def decode(document: bytes | str, model: type[Model], *, limit: int = MAX_DOCUMENT) -> Model:
    """Read JSON as `model`: types are strict, unknown fields are ignored, missing optional ones take their default.

    Raises `WireError` when the document is larger than `limit` bytes, is not JSON, or does not fit the model.
    """
    raw = document.encode("utf-8", "surrogatepass") if isinstance(document, str) else document
    if len(raw) > limit:
        raise WireError(f"{model.__name__}: the document has {len(raw)} bytes, at most {limit} are read")
    prepare(model)
    try:
        return msgspec.json.decode(raw, type=model)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"{model.__name__}: {error}") from error


def canonical(model: object) -> bytes:
    """The RFC 8785 canonical JSON of a wire model (or of plain JSON data), as UTF-8 bytes.

    Raises `WireError` for what JSON cannot carry exactly: NaN, infinities, integers beyond 2**53 - 1, lone surrogates.
    """
    try:
        plain: Any = msgspec.to_builtins(model, str_keys=True)
        return rfc8785.dumps(plain)
    except (rfc8785.CanonicalizationError, UnicodeError, TypeError, ValueError) as error:
        raise WireError(f"{type(model).__name__} has no canonical form: {error}") from error


def is_canonical(document: bytes) -> bool:
    """Whether `document` is exactly its own canonical form (which also rules out duplicate keys and NaN).

    Every number is read as a double, which is what RFC 8785, section 3.2.2.3 makes of it: an integer that no double
    holds then differs from its own form.
    """
    try:
        return rfc8785.dumps(json.loads(document, parse_int=float)) == document
    except (rfc8785.CanonicalizationError, ValueError, RecursionError):
        return False
