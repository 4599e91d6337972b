"""Versions that failed here. They are not installed again until a person or a higher version says otherwise."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from appliance_update.files import Unreadable, decode, read_limited, set_aside, write_json

LIMIT = 1024 * 1024


@dataclass(frozen=True)
class Failure:
    """Why and when (seconds since the epoch) a version was put away."""

    reason: str
    at: float


@dataclass(frozen=True)
class Quarantine:
    """Version to failure."""

    format: int = 1
    versions: dict[str, Failure] = field(default_factory=dict)


def load(path: Path) -> Quarantine:
    """The quarantine; empty when there is none. An unreadable one is set aside: spent boot entries still tell."""
    try:
        return decode(read_limited(path, LIMIT), Quarantine, str(path))
    except FileNotFoundError:
        return Quarantine()
    except (Unreadable, OSError):
        with contextlib.suppress(OSError):
            set_aside(path)
        return Quarantine()


def add(path: Path, version: str, reason: str, at: float) -> None:
    """Put a version away; a second failure of the same version keeps the first reason's time. Raises `OSError`."""
    current = load(path)
    if version in current.versions:
        return
    write_json(path, replace(current, versions={**current.versions, version: Failure(reason, at)}))
