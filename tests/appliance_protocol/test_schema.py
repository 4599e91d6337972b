"""Schemas change only once a new system has proved itself, whole or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance_protocol.schema import Schema, bring_up, on_trial

FIRST = ("CREATE TABLE note (text TEXT NOT NULL)",)
SECOND = ("ALTER TABLE note ADD COLUMN author TEXT NOT NULL DEFAULT ''", "CREATE INDEX by_author ON note (author)")
BROKEN = ("ALTER TABLE note ADD COLUMN place TEXT", "ALTER TABLE no_such_table ADD COLUMN x")
OLD, NEW, BAD = Schema((FIRST,)), Schema((FIRST, SECOND)), Schema((FIRST, SECOND, BROKEN))


@pytest.fixture(params=[None, ""], ids=["autocommit", "implicit transactions"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=request.param)
    yield connection
    connection.close()


def columns(database: sqlite3.Connection) -> list[str]:
    return [row[1] for row in database.execute("PRAGMA table_info(note)")]


def number(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def test_a_new_database_has_the_newest_schema_at_once(database: sqlite3.Connection) -> None:
    assert bring_up(database, NEW, held=True).version == 2
    assert (columns(database), number(database)) == (["text", "author"], 2)


def test_on_trial_an_existing_database_stays_as_it_is(database: sqlite3.Connection) -> None:
    bring_up(database, OLD, held=False)
    standing = bring_up(database, NEW, held=True)
    assert (standing.version, standing.held) == (1, True)
    assert (columns(database), number(database)) == (["text"], 1)


def test_after_the_trial_it_is_brought_up_with_what_is_in_it(database: sqlite3.Connection) -> None:
    bring_up(database, OLD, held=False)
    database.execute("INSERT INTO note (text) VALUES ('kept')")
    database.commit()
    standing = bring_up(database, NEW, held=False)
    assert (standing.version, standing.held, standing.problem) == (2, False, "")
    assert database.execute("SELECT text, author FROM note").fetchall() == [("kept", "")]


def test_a_step_that_fails_half_way_leaves_the_old_schema_and_says_so(database: sqlite3.Connection) -> None:
    bring_up(database, OLD, held=False)
    standing = bring_up(database, BAD, held=False)
    assert standing.version == 1
    assert "stays at 1, 3 is wanted: no such table" in standing.problem
    assert (columns(database), number(database)) == (["text"], 1), "not even the step that worked"
    assert not database.in_transaction


def test_a_newer_schema_is_read_on(database: sqlite3.Connection) -> None:
    bring_up(database, NEW, held=False)
    assert bring_up(database, OLD, held=False).version == 2
    database.execute("INSERT INTO note (text) VALUES ('from the older program')")
    assert database.execute("SELECT author FROM note").fetchall() == [("",)]


def test_a_database_from_before_schemas_had_numbers_is_brought_up(database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE note (text TEXT NOT NULL)")
    tolerant = Schema((("CREATE TABLE IF NOT EXISTS note (text TEXT NOT NULL)",),))
    assert bring_up(database, tolerant, held=True).version == 0
    assert bring_up(database, tolerant, held=False).version == 1


def test_a_power_cut_in_a_step_is_undone_by_the_next_opening(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    first = sqlite3.connect(path, isolation_level=None)
    first.execute("PRAGMA journal_mode=WAL")
    bring_up(first, OLD, held=False)
    first.execute("BEGIN IMMEDIATE")
    for statement in SECOND:
        first.execute(statement)
    torn = {suffix: (tmp_path / f"x.db{suffix}").read_bytes() for suffix in ("", "-wal")}
    first.close()
    for suffix, content in torn.items():
        (tmp_path / f"y.db{suffix}").write_bytes(content)
    second = sqlite3.connect(tmp_path / "y.db", isolation_level=None)
    assert (columns(second), number(second)) == (["text"], 1)
    second.close()


def test_what_cannot_be_told_counts_as_a_trial(tmp_path: Path) -> None:
    assert not on_trial(tmp_path / "trial")
    (tmp_path / "trial").touch()
    assert on_trial(tmp_path / "trial")
    assert on_trial(tmp_path / "trial" / "below a file"), "not a directory: nobody knows"
