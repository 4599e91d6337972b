"""What happens in a transaction is written together or not at all, whatever the library between commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlite_utils
from sqlite_utils.db import NotFoundError, Table

from appliance_protocol.transactions import Connection, transaction

SCHEMA = "CREATE TABLE ledger (number INTEGER PRIMARY KEY, text TEXT NOT NULL)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.db"


@pytest.fixture
def connection(path: Path) -> Iterator[Connection]:
    connection = sqlite3.connect(path, isolation_level=None, factory=Connection, timeout=0)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(SCHEMA)
    connection.execute("INSERT INTO ledger VALUES (1, 'there before')")
    yield connection
    connection.close()


def seen_by_others(path: Path) -> list[int]:
    other = sqlite3.connect(path)
    found = [row[0] for row in other.execute("SELECT number FROM ledger ORDER BY number")]
    other.close()
    return found


WRITES: dict[str, Callable[[Table], object]] = {
    "insert": lambda table: table.insert({"number": 2, "text": "new"}),
    "insert, replacing": lambda table: table.insert({"number": 1, "text": "another"}, replace=True),
    "insert, ignoring": lambda table: table.insert({"number": 2, "text": "new"}, ignore=True),
    "insert many": lambda table: table.insert_all({"number": number, "text": "new"} for number in range(2, 2000)),
    "update": lambda table: table.update(1, {"text": "changed"}),
    "delete": lambda table: table.delete(1),
    "delete where": lambda table: table.delete_where("number < ?", [9]),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_no_write_of_sqlite_utils_ends_the_transaction_around_it(
    path: Path, connection: Connection, write: Callable[[Table], object]
) -> None:
    with transaction(connection):
        write(sqlite_utils.Database(connection).table("ledger"))
        assert connection.in_transaction
        assert seen_by_others(path) == [1]
    assert not connection.in_transaction


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_what_was_written_before_an_error_is_not_kept(
    path: Path, connection: Connection, write: Callable[[Table], object]
) -> None:
    before = connection.execute("SELECT * FROM ledger").fetchall()
    with pytest.raises(NotFoundError), transaction(connection):
        table = sqlite_utils.Database(connection).table("ledger")
        write(table)
        table.get(4711)
    assert connection.execute("SELECT * FROM ledger").fetchall() == before


def test_a_write_that_fails_and_is_caught_takes_only_itself_back(path: Path, connection: Connection) -> None:
    with transaction(connection):
        table = sqlite_utils.Database(connection).table("ledger")
        table.insert({"number": 2, "text": "new"})
        with pytest.raises(sqlite3.IntegrityError):
            table.insert({"number": 2, "text": "again"})
    assert seen_by_others(path) == [1, 2]


def test_outside_a_transaction_every_write_is_kept_at_once(path: Path, connection: Connection) -> None:
    table = sqlite_utils.Database(connection).table("ledger")
    table.insert({"number": 2, "text": "new"})
    table.delete_where("number = 1")
    assert not connection.in_transaction
    assert seen_by_others(path) == [2]


def test_two_writers_wait_for_each_other_instead_of_mixing(path: Path, connection: Connection) -> None:
    other = sqlite3.connect(path, isolation_level=None, factory=Connection, timeout=0)
    with transaction(connection):
        with pytest.raises(sqlite3.OperationalError, match="locked"), transaction(other):
            raise AssertionError("not reached")
        assert connection.in_transaction
    with transaction(other):
        pass
    other.close()


def test_a_connection_that_is_closed_meanwhile_does_not_hide_the_first_error(connection: Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError), transaction(connection):
        try:
            connection.execute("INSERT INTO ledger VALUES (1, 'twice')")
        finally:
            connection.close()
