"""Transactions that are not ended before their block is.

sqlite-utils 3, which the appliance has, puts its writes into `with connection` blocks, and the sqlite3 module commits
at the end of each: of two inserts in one transaction the first would be on disk without the second. On this
connection only the outermost block commits or rolls back. (sqlite-utils 4 nests with savepoints, which changes nothing
here.)
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from types import TracebackType
from typing import Literal, Self


class Connection(sqlite3.Connection):
    """For `sqlite3.connect(factory=...)`, with `isolation_level=None`: only `transaction` opens a transaction."""

    _depth = 0

    def __enter__(self) -> Self:
        self._depth += 1
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self._depth -= 1
        if self._depth:
            return False
        if kind is None:
            return super().__exit__(None, None, None)
        with contextlib.suppress(sqlite3.Error):  # a disk that fails also fails to roll back: the first error counts
            super().__exit__(kind, error, trace)
        return False


@contextlib.contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """A write transaction: all of the block is in the database when it ends, or none of it.

    Raises `sqlite3.Error`, also when another process keeps the database locked for longer than the connection waits.
    """
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
