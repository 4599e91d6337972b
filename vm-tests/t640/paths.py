"""Where the rig finds the repository and keeps what it makes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
"""The clone this package lies in."""

PACKAGE = Path(__file__).resolve().parent
"""This package's folder, with the data files beside the modules."""

LAYOUT_MARK = "layout.toml"
"""The description of the disk, by the same name in the repository and on the appliance."""

DISTRIBUTIONS = (
    "agent/appliance-protocol",
    "agent/compliance-agent",
    "agent/network-scanner",
    "agent/local-portal",
    "agent/appliance-update",
)
"""What runs on the appliance, in the order in which it is installed."""


def cache_directory() -> Path:
    """The directory for everything worth keeping between runs; `APPLIANCE_CACHE` moves it out of the clone."""
    chosen = os.environ.get("APPLIANCE_CACHE")
    path = Path(chosen).expanduser() if chosen else REPOSITORY / ".cache"
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def distributions() -> list[Path]:
    """The distribution folders that are there, in the order of `DISTRIBUTIONS`."""
    return [REPOSITORY / name for name in DISTRIBUTIONS if (REPOSITORY / name / "pyproject.toml").is_file()]


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock in the cache, so that two runs do not build the same thing at the same time."""
    path = cache_directory() / f"{name}.lock"
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
