"""The services' databases open, and SQLite finds them whole."""

from __future__ import annotations

import glob
import sqlite3
import urllib.parse
from pathlib import Path

from appliance_update.config import Config
from appliance_update.host import Host

MOST = 64 * 1024 * 1024
"""Bytes up to which the whole database is checked; a larger one is only opened and its schema read."""


def check(config: Config, host: Host) -> str | None:
    """Read-only, beside the running services."""
    gate = config.gate
    for pattern in gate.databases:
        for name in sorted(glob.glob(str(host.path(pattern)))):  # noqa: PTH207
            problem = _problem(Path(name))
            if problem:
                return f"The database {name} is not usable: {problem}"
    return None


def _problem(path: Path) -> str | None:
    try:
        connection = sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?mode=ro", uri=True, timeout=10.0)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if path.stat().st_size > MOST:
                return None
            row = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        return str(error)
    return None if row and row[0] == "ok" else str(row[0] if row else "no answer")[:300]
