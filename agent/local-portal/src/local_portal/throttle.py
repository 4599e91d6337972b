"""Slowing down people who guess: after a few free tries every further one has to wait longer.

Three counters stand beside each other: the address a try comes from, the account it is for, and everybody together.
The last one waits at most a minute, so that a stranger who keeps guessing cannot lock the clinic out for long.
"""

from __future__ import annotations

import hashlib
import ipaddress
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

FORGET_AFTER = 24 * 3600.0
MAX_ROWS = 2000


@dataclass(frozen=True)
class Limit:
    """`free` tries without waiting, then `first` seconds, doubled with each further one up to `longest`."""

    free: int
    first: float
    longest: float

    def wait(self, failures: int) -> float:
        """How long after the last try the next one is let in, in seconds."""
        if failures < self.free:
            return 0.0
        return float(min(self.longest, self.first * 2.0 ** min(failures - self.free, 32)))


ADDRESS = Limit(free=5, first=4, longest=15 * 60)
ACCOUNT = Limit(free=8, first=2, longest=5 * 60)
EVERYBODY = Limit(free=40, first=1, longest=60)


class Throttle:
    """Counts tries; `ticks` is a clock that never jumps, in seconds."""

    def __init__(self, database: sqlite3.Connection, ticks: Callable[[], float]) -> None:
        self._database = database
        self._ticks = ticks
        database.execute(
            "CREATE TABLE IF NOT EXISTS attempt"
            " (key TEXT PRIMARY KEY, failures INTEGER NOT NULL, last_at REAL NOT NULL)"
        )

    def admit(self, act: str, address: str, account: str = "") -> float:
        """0 when this try may go ahead, else the seconds to wait.

        A try counts as failed from the start, so that many at once cannot slip through together; `succeeded` undoes it.
        """
        limits = _limits(act, address, account)
        longest = max(self._left(key, limit) for key, limit in limits.items())
        if longest > 0:
            return longest
        for key in limits:
            self._count(key)
        return 0.0

    def succeeded(self, act: str, address: str, account: str = "") -> None:
        """Forget the failures of this address and account; everybody's counter only loses this one try."""
        keys = list(_limits(act, address, account))
        self._database.execute("DELETE FROM attempt WHERE key IN (?, ?)", [keys[0], keys[-1] if account else keys[0]])
        self._database.execute("UPDATE attempt SET failures = max(0, failures - 1) WHERE key = ?", [keys[1]])

    def _left(self, key: str, limit: Limit) -> float:
        row = self._database.execute("SELECT failures, last_at FROM attempt WHERE key = ?", [key]).fetchone()
        if row is None:
            return 0.0
        since = self._ticks() - row[1]
        return 0.0 if since >= FORGET_AFTER else max(0.0, limit.wait(row[0]) - since)

    def _count(self, key: str) -> None:
        now = self._ticks()
        self._database.execute("DELETE FROM attempt WHERE last_at <= ?", [now - FORGET_AFTER])
        self._database.execute(
            "INSERT INTO attempt VALUES (?, 1, ?) ON CONFLICT (key) DO UPDATE SET failures = failures + 1, last_at = ?",
            [key, now, now],
        )
        # Never the counters for everybody: flooding with invented names must not wash them out.
        self._database.execute(
            "DELETE FROM attempt WHERE key NOT LIKE '%:all' AND key NOT IN"
            " (SELECT key FROM attempt ORDER BY last_at DESC LIMIT ?)", [MAX_ROWS],
        )


def _limits(act: str, address: str, account: str) -> dict[str, Limit]:
    limits = {f"{act}:from:{_neighbourhood(address)}": ADDRESS, f"{act}:all": EVERYBODY}
    if account:
        limits[f"{act}:for:{hashlib.sha256(account.casefold().encode('utf-8', 'replace')).hexdigest()[:32]}"] = ACCOUNT
    return limits


def _neighbourhood(address: str) -> str:
    """One IPv4 address, or the /64 that a single IPv6 host can roam in."""
    try:
        parsed = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)
