"""One SQLite file, spoken to through sqlite-utils: opened when first needed, guarded for threads, with errors a
technician can act on.

Write-ahead logging with full synchronisation: what was committed is there after a power cut. A database that cannot
be opened or written (disk full, disk failing) raises `StoreError`; it is tried again at the next use, so that the
agent runs on without its disk and recovers with it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlite_utils.db import NotFoundError

from appliance_protocol.schema import TRIAL_MARK, Schema, Standing, bring_up, on_trial
from appliance_protocol.tables import Tables
from appliance_protocol.transactions import Connection, transaction

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process (the command line) to finish its transaction."""
WAL_LIMIT = 4 << 20
"""Bytes to which the write-ahead log is cut back after a checkpoint."""


class StoreError(RuntimeError):
    """The database cannot be read or written; the message names the file, the reason and what to do."""


class StoreFull(StoreError):
    """There is no space left for the database. Nothing already written is lost."""


class Database:
    """A lazily opened database. Its schema is brought up when it is opened, or once a trial is over (see `schema`)."""

    def __init__(self, path: Path, schema: Schema, *, read_only: bool = False, trial_mark: Path = TRIAL_MARK) -> None:
        self.path = path
        self._schema = schema
        self._read_only = read_only
        self._trial_mark = trial_mark
        self.standing = Standing(schema.version)
        """Where its schema stands, as of the last look."""
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self.set_aside: str | None = None
        """Where a damaged database was put, if one was found at opening."""

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Tables]:
        """A write transaction: all of it is on disk when the block ends, or none of it. Raises `StoreError`."""
        with self._guarded() as connection, transaction(connection):
            yield Tables(connection)

    def rows(
        self,
        table: str,
        where: str | None = None,
        parameters: Sequence[Any] = (),
        *,
        order_by: str | None = None,
        select: str = "*",
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rows of a table as dictionaries. Raises `StoreError`."""
        with self._guarded() as connection:
            found = Tables(connection).table(table).rows_where(
                where, parameters, order_by=order_by, select=select, limit=limit
            )
            return list(found)

    def get(self, table: str, key: str | tuple[str | int, ...]) -> dict[str, Any] | None:
        """The row with that primary key; None when there is none. Raises `StoreError`."""
        with self._guarded() as connection:
            try:
                return dict(Tables(connection).table(table).get(key))
            except NotFoundError:
                return None

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of what is more than a table's rows, as dictionaries. Raises `StoreError`."""
        with self._guarded() as connection:
            return list(Tables(connection).query(sql, parameters))

    def vacuum(self) -> None:
        """Give free pages back to the file system, a piece at a time (incremental). Raises `StoreError`."""
        with self._guarded() as connection:
            connection.execute("PRAGMA incremental_vacuum(2000)").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[Connection]:
        with self._lock:
            try:
                yield self._open()
            except sqlite3.Error as error:
                # A full disk leaves the connection good, and reopening would need space of its own.
                if code(error).startswith(("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CANTOPEN")):
                    self.close()
                raise explain(error, self.path) from error

    def _open(self) -> Connection:
        if self._connection is None:
            try:
                self._connection = self._connect()
            except sqlite3.DatabaseError as error:
                if self._read_only or code(error) not in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
                    raise
                self._put_aside()
                self._connection = self._connect()
        if self.standing.held and not self._connection.in_transaction:
            self._bring_up(self._connection)
        return self._connection

    def _bring_up(self, connection: Connection) -> None:
        """Change the schema, if it has to be changed and this is no trial (any more)."""
        self.standing = bring_up(connection, self._schema, held=on_trial(self._trial_mark))

    @property
    def problem(self) -> str:
        """What is wrong with the schema; empty when nothing is."""
        return f"{self.path}: {self.standing.problem}" if self.standing.problem else ""

    def _connect(self) -> Connection:
        mode = "ro" if self._read_only else "rwc"
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
            factory=Connection,
        )
        try:
            if not self._read_only:
                connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
                connection.execute("PRAGMA journal_mode=WAL").fetchall()
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT}").fetchall()
                connection.execute("PRAGMA cache_size=-1024")
                self._bring_up(connection)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_aside(self) -> None:
        """Move a damaged database out of the way; the newest damaged one is kept for inspection."""
        target = self.path.with_name(self.path.name + ".damaged")
        self.path.replace(target)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(self.path.name + suffix).unlink()
        self.set_aside = f"{target} ({time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())})"


def code(error: sqlite3.Error) -> str:
    """SQLite's own name of an error, such as `SQLITE_FULL`."""
    return str(getattr(error, "sqlite_errorname", "") or type(error).__name__)


def explain(error: sqlite3.Error, path: Path) -> StoreError:
    """The error in words, by file and cause."""
    name = code(error)
    if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _disk_full(path)):
        return StoreFull(f"{path}: the state disk is full ({name}); free space on /var, nothing written is lost")
    if name.startswith("SQLITE_IOERR"):
        return StoreError(f"{path}: the state disk does not read or write ({name}); see `journalctl -k`, replace it")
    if name == "SQLITE_CANTOPEN" and _disk_full(path):
        return StoreFull(f"{path}: cannot be opened, the state disk is full; free space on /var")
    return StoreError(f"{path}: {error} ({name})")


def _disk_full(path: Path) -> bool:
    """Whether the file system has no room for so much as a write-ahead log page."""
    try:
        status = os.statvfs(path.parent)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < 64 << 10 or (status.f_files > 0 and status.f_favail == 0)
