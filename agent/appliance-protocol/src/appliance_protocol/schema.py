"""The schema of a service's database, step by step, and the rule that keeps a rollback possible.

While a new system is on trial no schema changes: its code reads and writes the one it finds. Once the system has
proved itself, each step is taken in one transaction with its number (PRAGMA user_version); a step that fails leaves
the database as it was. Steps only ever add; what an older program does not know it leaves alone, so that it reads on
when it comes back.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

TRIAL_MARK = Path("/run/appliance-update/trial")
"""There from early boot until a new system has proved itself. Who makes it is no concern of whoever looks."""


@dataclass(frozen=True)
class Schema:
    """`steps[n]` are the statements that lead from schema n to n + 1. The first makes a new database's tables.

    Published steps are never changed; the tests keep a database of every schema there was.
    """

    steps: tuple[tuple[str, ...], ...]

    @property
    def version(self) -> int:
        """The newest schema that this program knows."""
        return len(self.steps)


@dataclass(frozen=True)
class Standing:
    """Where a database stands: its schema, whether a change waits for the end of a trial, and what went wrong."""

    version: int
    held: bool = False
    problem: str = ""


def on_trial(mark: Path = TRIAL_MARK) -> bool:
    """Whether the running system has still to prove itself. What cannot be told counts as a trial."""
    try:
        mark.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def bring_up(connection: sqlite3.Connection, schema: Schema, *, held: bool) -> Standing:
    """Bring a database to its schema, unless that has to wait (`held`). The connection has no transaction open.

    A new database gets its tables at once: no older program has anything in it. Raises `sqlite3.Error` only when that
    fails, or when the database cannot be read; an existing one that cannot be brought up is used as it is.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version >= schema.version:
        return Standing(version)
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        _take(connection, schema, 0)
        return Standing(schema.version)
    if held:
        return Standing(version, held=True)
    try:
        _take(connection, schema, version)
    except sqlite3.Error as error:
        said = f"its schema stays at {version}, {schema.version} is wanted: {error}"
        return Standing(version, problem=f"{said}; it is tried again at the next start")
    return Standing(schema.version)


def _take(connection: sqlite3.Connection, schema: Schema, version: int) -> None:
    """Every step after `version`, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in schema.steps[version:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={schema.version}")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
