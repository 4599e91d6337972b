"""The one door to the database: SQLite (one writer) or PostgreSQL, behind the same two context managers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import sqlalchemy.exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

UNAVAILABLE: tuple[type[Exception], ...] = (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError, OSError)
"""Exceptions that may mean that the database is away; `is_unavailable` tells."""

_WAIT = 10
"""Seconds to wait for a connection, a lock or one command."""


class DatabaseURLError(ValueError):
    """A database URL that cannot be used; the message says what would do."""


def parse_url(text: str) -> URL:
    """The URL with the asynchronous driver named. Raises `DatabaseURLError`, which never shows a password."""
    try:
        url = make_url(text)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise DatabaseURLError("this is not a URL; write sqlite:////path or postgresql://host/database") from error
    kind = url.drivername.split("+")[0]
    if kind == "sqlite":
        return url.set(drivername="sqlite+aiosqlite")
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+asyncpg")
    raise DatabaseURLError(f"database {kind!r} is not supported; write sqlite:////path or postgresql://host/db")


def is_unavailable(error: BaseException) -> bool:
    """Whether the error means "not now" (gone, locked, full, read-only, starting up), rather than a fault of ours."""
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        if isinstance(error, (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)):
            return True
        # asyncpg's errors reach us as plain DBAPIError or InternalError; SQLSTATE classes 08, 53, 55, 57 and 58 are
        # connection, resources, lock not available, operator intervention and system error.
        state = str(getattr(error.orig, "sqlstate", "") or "")
        return error.connection_invalidated or state[:2] in ("08", "53", "55", "57", "58") or state == "25006"
    return isinstance(error, (sqlalchemy.exc.TimeoutError, OSError))


class Database:
    """Two engines over one database. With SQLite, `write` holds the only writing connection (BEGIN IMMEDIATE)."""

    def __init__(self, url: str, pool: int = 8) -> None:
        self.url = parse_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        if self.sqlite:
            self._reader = _sqlite_engine(self.url, "BEGIN", pool)
            self._writer = _sqlite_engine(self.url, "BEGIN IMMEDIATE", 1)
        else:
            self._reader = self._writer = _postgresql_engine(self.url, pool)

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one state of the database and changes nothing."""
        async with self._reader.connect() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is durable when the block ends, and has not happened when the block raises."""
        async with self._writer.begin() as connection:
            yield connection

    async def ping(self) -> None:
        """Raises one of `UNAVAILABLE` when the database does not answer."""
        async with self.read() as connection:
            await connection.execute(sa.text("SELECT 1 FROM devices WHERE 1 = 0"))

    async def close(self) -> None:
        """Give back every connection."""
        await self._reader.dispose()
        if self._writer is not self._reader:
            await self._writer.dispose()


def _sqlite_engine(url: URL, begin: str, pool: int) -> AsyncEngine:
    if url.database in (None, "", ":memory:"):
        raise DatabaseURLError("SQLite needs a file: its connections would not share a database in memory")
    _private(Path(str(url.database)))
    engine = create_async_engine(
        url, pool_size=pool, max_overflow=0, pool_timeout=_WAIT, poolclass=sa.AsyncAdaptedQueuePool
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        # The driver must not open transactions of its own: ours begin where SQLAlchemy says so, as BEGIN IMMEDIATE.
        connection.isolation_level = None
        cursor = connection.cursor()
        # FULL: what was acknowledged to a device is on the disk, also after a power cut.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_WAIT * 1000}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _private(path: Path) -> None:
    """Make the file before SQLite does, so that it is never readable by others."""
    if path.parent.is_dir() and not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        give_to_owner_of_directory(path)


def give_to_owner_of_directory(path: Path) -> None:
    """What root makes on the command line belongs to the service that has to use it afterwards."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _postgresql_engine(url: URL, pool: int) -> AsyncEngine:
    arguments = {
        "timeout": _WAIT,
        "command_timeout": _WAIT,
        "server_settings": {"application_name": "central-command", "lock_timeout": f"{_WAIT * 500}"},
    }
    return create_async_engine(
        url, pool_size=pool, max_overflow=pool, pool_timeout=_WAIT, pool_pre_ping=True, connect_args=arguments
    )
