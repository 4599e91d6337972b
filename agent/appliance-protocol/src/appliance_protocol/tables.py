"""A database's tables through sqlite-utils, strictly. Who uses this names sqlite-utils among its own dependencies."""

from __future__ import annotations

import sqlite3

import sqlite_utils
from sqlite_utils.db import Table

from appliance_protocol.transactions import Connection


class Tables(sqlite_utils.Database):
    """The tables there are, with triggers as SQLite has them and without plugins.

    sqlite-utils by itself shows a table that is missing as an empty one, and makes it up at the first insert: evidence
    would be gone without a word, and a scanner would know of no exclusions.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, recursive_triggers=False, execute_plugins=False)

    def table(self, table_name: str, **options: object) -> Table:
        """A table. Raises `sqlite3.OperationalError` when it is not there."""
        found = super().table(table_name, **options)
        if not found.exists():
            raise sqlite3.OperationalError(f"no such table: {table_name}")
        return found
