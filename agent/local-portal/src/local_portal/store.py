"""What the portal remembers: accounts and events on the state disk, sessions and failures in memory's file system.

Sessions and failed attempts live under /run, so that people can still log in and look when the state disk is full.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance_protocol.schema import TRIAL_MARK, Schema, bring_up, on_trial
from local_portal.text import clean

EVENT_DAYS = 30
EVENT_ROWS = 5000
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no I, L, O, U


SCHEMA = Schema(
    steps=(
        (
            "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, password_hash TEXT NOT NULL,"
            " created_at REAL NOT NULL)",
            "CREATE TABLE IF NOT EXISTS claim (id INTEGER PRIMARY KEY CHECK (id = 1), code TEXT NOT NULL)",
            "CREATE TABLE IF NOT EXISTS event (id INTEGER PRIMARY KEY, at REAL, account TEXT, address TEXT,"
            " kind TEXT, detail TEXT)",
            "CREATE TABLE IF NOT EXISTS secret (id INTEGER PRIMARY KEY CHECK (id = 1), value BLOB NOT NULL)",
        ),
    )
)
"""Columns are always named in statements, so that an older portal writes beside columns that a newer one added."""


class StoreError(RuntimeError):
    """State that cannot be read or written; the message says where and what to do."""


@dataclass(frozen=True)
class Account:
    """A person who may log in."""

    name: str
    password_hash: str
    created_at: float


@dataclass(frozen=True)
class Event:
    """Something a person did, or tried to do, on the portal."""

    at: float
    account: str
    address: str
    kind: str
    detail: str


def open_database(path: Path) -> sqlite3.Connection:
    """A database in WAL mode that only its owner can read. Raises `StoreError` when it cannot be opened."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.close(handle)
        connection = sqlite3.connect(path, timeout=5, check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA cache_size=-256")
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}; is the disk full, read-only, or owned by somebody else?") from error
    return connection


class Store:
    """Accounts, the claim code and the log of events, on the state disk."""

    def __init__(self, directory: Path, *, trial_mark: Path = TRIAL_MARK) -> None:
        self.path = directory / "portal.db"
        self.database = open_database(self.path)
        self._trial_mark = trial_mark
        try:
            self.standing = bring_up(self.database, SCHEMA, held=on_trial(trial_mark))
            self.database.execute("INSERT OR IGNORE INTO secret (id, value) VALUES (1, ?)", [secrets.token_bytes(32)])
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}; the state disk may be full or damaged") from error

    def tend(self) -> str:
        """Change the schema once a trial is over; what is wrong with it, or an empty text. Raises `sqlite3.Error`."""
        if self.standing.held:
            self.standing = bring_up(self.database, SCHEMA, held=on_trial(self._trial_mark))
        return f"{self.path}: {self.standing.problem}" if self.standing.problem else ""

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    @property
    def secret(self) -> bytes:
        """The key behind the form tokens."""
        return bytes(self._one("SELECT value FROM secret", [])[0])

    def claimed(self) -> bool:
        """Whether somebody has taken the appliance into use."""
        return bool(self._one("SELECT count(*) FROM account", [])[0])

    def claim_code(self) -> str | None:
        """The code that the first person needs; None once it has been used. Made here when there is none yet."""
        if self.claimed():
            return None
        self.database.execute("INSERT OR IGNORE INTO claim (id, code) VALUES (1, ?)", [_new_code()])
        return str(self._one("SELECT code FROM claim", [])[0])

    def claim(self, code: str, account: Account) -> bool:
        """Use the code up for the first account; False when it is wrong or was used meanwhile."""
        with self.database as connection:
            connection.execute("BEGIN IMMEDIATE")
            expected = self.claim_code()
            if expected is None or not secrets.compare_digest(normalise_code(code), normalise_code(expected)):
                return False
            connection.execute("DELETE FROM claim")
            connection.execute("INSERT INTO account (name, password_hash, created_at) VALUES (?, ?, ?)",
                               [account.name, account.password_hash, account.created_at])
        return True

    def reset_claim(self) -> str:
        """Remove every account and make a new code."""
        with self.database as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM account")
            connection.execute("DELETE FROM claim")
            connection.execute("UPDATE secret SET value = ?", [secrets.token_bytes(32)])
        return str(self.claim_code())

    def account(self, name: str) -> Account | None:
        """The account of that name, without regard to case; None when there is none."""
        row = self._row("SELECT name, password_hash, created_at FROM account WHERE name = ?", [name.casefold()])
        return None if row is None else Account(*row)

    def set_password(self, name: str, password_hash: str) -> None:
        """Replace an account's password."""
        self.database.execute("UPDATE account SET password_hash = ? WHERE name = ?", [password_hash, name])

    def record(self, event: Event) -> None:
        """Append to the log; old and surplus entries go. A full disk never stops what is being logged."""
        try:
            self.database.execute(
                "INSERT INTO event (at, account, address, kind, detail) VALUES (?, ?, ?, ?, ?)",
                [event.at, clean(event.account, 64), event.address, event.kind, clean(event.detail, 300)],
            )
            self.database.execute(
                "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ? OR at < ?",
                [EVENT_ROWS, event.at - EVENT_DAYS * 86400],
            )
        except sqlite3.Error:
            return

    def events(self, limit: int = 20) -> list[Event]:
        """The newest entries of the log, newest first."""
        rows = self.database.execute(
            "SELECT at, account, address, kind, detail FROM event ORDER BY id DESC LIMIT ?", [limit]
        ).fetchall()
        return [Event(*row) for row in rows]

    def _row(self, statement: str, values: list[Any]) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self.database.execute(statement, values).fetchone()
        return row

    def _one(self, statement: str, values: list[Any]) -> tuple[Any, ...]:
        row = self._row(statement, values)
        if row is None:
            raise StoreError("the portal's database lacks a row it must have; run local-portal reset-claim")
        return row


def _new_code() -> str:
    """60 random bits as three groups of four characters, easy to read aloud and to type."""
    letters = "".join(secrets.choice(_ALPHABET) for _ in range(12))
    return "-".join(letters[place : place + 4] for place in range(0, 12, 4))


def normalise_code(code: str) -> bytes:
    """The code as typed, without case, spaces and hyphens, and with the letters people confuse put right."""
    plain = "".join(char for char in code.upper() if char.isalnum())[:64]
    return plain.translate(str.maketrans("OIL", "011")).encode("utf-8", "replace")
