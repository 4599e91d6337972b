"""Bring the database to the schema this version needs, and refuse to run on any other."""

from __future__ import annotations

from pathlib import Path

import alembic.command
import alembic.util
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from central_command.database import Database

_LOCK = 0x63656E7472616C
"""PostgreSQL advisory lock: two servers that start together migrate one after the other."""


class SchemaError(RuntimeError):
    """A database whose schema is not the one this version works with; the message says what to do."""


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    return config


def newest() -> str:
    """The revision this version works with."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


async def upgrade(database: Database) -> tuple[str, str]:
    """Run what is missing, in one transaction. Returns the revision before and after (empty when there was none).

    Raises `SchemaError` when the database has been used by a newer version.
    """
    async with database.write() as connection:
        if not database.sqlite:
            await connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        before = await connection.run_sync(_current)
        try:
            await connection.run_sync(lambda sync: alembic.command.upgrade(_config(sync), "head"))
        except alembic.util.CommandError as error:
            raise SchemaError(_strange(before)) from error
    return before, newest()


async def check(database: Database) -> None:
    """Raises `SchemaError` unless the database has exactly the schema of this version."""
    async with database.read() as connection:
        current = await connection.run_sync(_current)
    if current == newest():
        return
    known = {step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions()}
    if current and current not in known:
        raise SchemaError(_strange(current))
    raise SchemaError(f"the database is at revision {current or 'none'}, not {newest()}; run: central-command migrate")


def _current(connection: sa.Connection) -> str:
    return MigrationContext.configure(connection).get_current_revision() or ""


def _strange(revision: str) -> str:
    return (
        f"the database is at revision {revision}, which this version does not know: a newer central-command has used "
        "it. Start that version again, or restore the backup made before the upgrade."
    )
