"""The schema: made by migrations alone, the same as the tables in the code, and never run on by a wrong version."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from central_command import migrate
from central_command.database import Database, DatabaseURLError, parse_url
from central_command.tables import INSERT_ONLY, metadata
from tests.central_command.rig import Central, do


def test_the_migrations_make_exactly_the_tables_the_code_works_with(central: Central) -> None:
    async def work() -> list[object]:
        async with central.database() as database, database.read() as connection:
            return await connection.run_sync(
                lambda sync: list(compare_metadata(MigrationContext.configure(sync), metadata))
            )

    assert do(work()) == []


@pytest.mark.parametrize("table", INSERT_ONLY)
@pytest.mark.parametrize("statement", ["UPDATE {} SET device_at = 0", "DELETE FROM {}"])
def test_insert_only_tables_refuse_changes(central: Central, table: str, statement: str) -> None:
    device = central.device()
    device.upload(device.bundle())
    with pytest.raises(sa.exc.DBAPIError, match="insert-only"):
        central.change(sa.text(statement.format(table).replace("device_at", "at" if table == "audit" else "device_at")))


def on_file(path: Path, work: object) -> object:
    async def run() -> object:
        database = Database(f"sqlite:///{path}")
        try:
            return await work(database)  # type: ignore[operator]
        finally:
            await database.close()

    return do(run())


def test_a_database_without_schema_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(migrate.SchemaError, match="central-command migrate"):
        on_file(tmp_path / "c.db", migrate.check)


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    async def age(database: Database) -> None:
        await migrate.upgrade(database)
        async with database.write() as connection:
            await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    on_file(tmp_path / "c.db", age)
    for step in (migrate.check, migrate.upgrade):
        with pytest.raises(migrate.SchemaError, match="newer central-command"):
            on_file(tmp_path / "c.db", step)


def test_the_database_file_is_not_for_other_users_and_writes_are_on_the_disk(tmp_path: Path) -> None:
    async def pragmas(database: Database) -> tuple[str, int]:
        await migrate.upgrade(database)
        async with database.write() as connection:
            mode = (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one()
            return mode, (await connection.exec_driver_sql("PRAGMA synchronous")).scalar_one()

    assert on_file(tmp_path / "c.db", pragmas) == ("wal", 2)
    assert (tmp_path / "c.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("given, driver", [
    ("sqlite:////x/y.db", "sqlite+aiosqlite"), ("postgresql://h/db", "postgresql+asyncpg"),
    ("postgres://h/db", "postgresql+asyncpg"), ("postgresql+psycopg://h/db", "postgresql+asyncpg"),
])
def test_urls_as_people_write_them(given: str, driver: str) -> None:
    assert parse_url(given).drivername == driver


def test_a_url_that_is_none_never_shows_its_password() -> None:
    with pytest.raises(DatabaseURLError) as error:
        parse_url("mysql://me:secret@h/db")
    assert "secret" not in str(error.value)
