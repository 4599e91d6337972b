"""Who is logged in: server-side sessions that end by themselves.

Times are CLOCK_BOOTTIME: a wall clock that jumps from 1970 to today neither ends a session nor prolongs one.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

MAX_PER_ACCOUNT = 10
_TOUCH_SECONDS = 30


@dataclass(frozen=True)
class Session:
    """A live session. `token` is the cookie's value; the database knows only its digest."""

    token: str
    account: str


class Sessions:
    """The sessions of everybody; `idle` and `absolute` are seconds."""

    def __init__(self, database: sqlite3.Connection, ticks: Callable[[], float], idle: float, absolute: float) -> None:
        self._database = database
        self._ticks = ticks
        self._idle = idle
        self._absolute = absolute
        database.execute(
            "CREATE TABLE IF NOT EXISTS session (digest TEXT PRIMARY KEY, account TEXT NOT NULL,"
            " created_at REAL NOT NULL, seen_at REAL NOT NULL, notice TEXT)"
        )

    def create(self, account: str) -> Session:
        """A new session under a new token; the account's oldest ones go when there are too many."""
        token, now = secrets.token_urlsafe(32), self._ticks()
        self.prune()
        self._database.execute("INSERT INTO session VALUES (?, ?, ?, ?, NULL)", [_digest(token), account, now, now])
        self._database.execute(
            "DELETE FROM session WHERE account = ? AND digest NOT IN"
            " (SELECT digest FROM session WHERE account = ? ORDER BY created_at DESC, rowid DESC LIMIT ?)",
            [account, account, MAX_PER_ACCOUNT],
        )
        return Session(token, account)

    def find(self, token: str, *, touch: bool = True) -> Session | None:
        """The session of a cookie; None when there is none or its time is up. `touch` starts the idle time anew."""
        if not 20 <= len(token) <= 100:
            return None
        digest, now = _digest(token), self._ticks()
        row = self._database.execute(
            "SELECT account, created_at, seen_at FROM session WHERE digest = ?", [digest]
        ).fetchone()
        if row is None:
            return None
        account, created_at, seen_at = row
        if now - created_at >= self._absolute or now - seen_at >= self._idle:
            self._database.execute("DELETE FROM session WHERE digest = ?", [digest])
            return None
        if touch and now - seen_at >= _TOUCH_SECONDS:
            self._database.execute("UPDATE session SET seen_at = ? WHERE digest = ?", [now, digest])
        return Session(token, account)

    def end(self, token: str) -> None:
        """Log out."""
        self._database.execute("DELETE FROM session WHERE digest = ?", [_digest(token)])

    def end_all(self, account: str | None = None) -> None:
        """Log an account out everywhere, or everybody."""
        if account is None:
            self._database.execute("DELETE FROM session")
        else:
            self._database.execute("DELETE FROM session WHERE account = ?", [account])

    def prune(self) -> None:
        """Forget the sessions whose time is up."""
        now = self._ticks()
        self._database.execute(
            "DELETE FROM session WHERE created_at <= ? OR seen_at <= ?", [now - self._absolute, now - self._idle]
        )

    def leave_notice(self, session: Session, text: str) -> None:
        """Say something on the next page this session sees."""
        self._database.execute("UPDATE session SET notice = ? WHERE digest = ?", [text, _digest(session.token)])

    def take_notice(self, session: Session) -> str:
        """What is to be said, once."""
        digest = _digest(session.token)
        row = self._database.execute("SELECT notice FROM session WHERE digest = ?", [digest]).fetchone()
        if row is None or row[0] is None:
            return ""
        self._database.execute("UPDATE session SET notice = NULL WHERE digest = ?", [digest])
        return str(row[0])


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
