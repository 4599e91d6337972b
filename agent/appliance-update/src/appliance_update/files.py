"""Files that are whole or not there: written beside, flushed, renamed, and the directory flushed too."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from appliance_update import faults

Model = TypeVar("Model")


class Unreadable(ValueError):
    """A file or document that is not what it should be; the message names it and the reason."""


def flush_directory(directory: Path) -> None:
    """Make the names in `directory` durable. FAT and some others refuse; then there is nothing better to do."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace `path` so that after a power cut either the old or the new content is there. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    faults.point(f"write:{path.name}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        faults.point(f"rename:{path.name}")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)
    faults.point(f"written:{path.name}")


def write_json(path: Path, document: object) -> None:
    """Replace `path` with `document` (a dataclass or plain data) as JSON."""
    write_whole(path, json.dumps(msgspec.to_builtins(document), indent=1, sort_keys=True).encode() + b"\n")


def read_limited(path: Path, limit: int) -> bytes:
    """The file's bytes. Raises `OSError`, and `Unreadable` when there are more than `limit`."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Unreadable(f"{path} has more than {limit} bytes")
    return content


def decode(document: bytes, model: type[Model], what: str) -> Model:
    """Read JSON as `model`; unknown fields are ignored. Raises `Unreadable`, which names `what`."""
    try:
        return msgspec.json.decode(document, type=model)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Unreadable(f"{what}: {error}") from error


def convert(data: Any, model: type[Model], what: str) -> Model:
    """Read plain data as `model`; unknown fields are ignored. Raises `Unreadable`, which names `what`."""
    try:
        return msgspec.convert(data, type=model)
    except (msgspec.MsgspecError, ValueError, RecursionError, TypeError) as error:
        raise Unreadable(f"{what}: {error}") from error


def set_aside(path: Path) -> Path:
    """Move an unreadable file out of the way, for a person to look at, and say where it went."""
    aside = path.with_name(f"{path.name}.unreadable-{int(time.time())}")
    path.replace(aside)
    return aside
