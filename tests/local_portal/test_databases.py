"""The portal's database of every schema there was: used on trial as it is, brought up after it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from local_portal.store import SCHEMA, Account, Event, Store

CORPUS = Path(__file__).with_name("databases")
VERSIONS = sorted(int(path.stem.rpartition("-")[2]) for path in CORPUS.glob("portal-*.sql"))


def old(version: int, directory: Path) -> Path:
    path = directory / "portal.db"
    connection = sqlite3.connect(path)
    connection.executescript((CORPUS / f"portal-{version}.sql").read_text())
    connection.close()
    return path


def test_the_corpus_holds_a_database_of_every_older_schema() -> None:
    """When this fails: a step was added; dump a database of the schema before it (`iterdump`) into the corpus."""
    assert list(range(SCHEMA.version)) == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_on_trial_accounts_and_events_are_read_and_written_as_they_are(tmp_path: Path, version: int) -> None:
    old(version, tmp_path)
    mark = tmp_path / "trial"
    mark.touch()
    store = Store(tmp_path, trial_mark=mark)
    assert store.claimed()
    assert store.account("Anna") is not None
    store.record(Event(1_790_000_100.0, "anna", "10.0.0.9", "login", "on trial"))
    assert store.tend() == ""
    assert store.database.execute("PRAGMA user_version").fetchone()[0] == version
    mark.unlink()
    assert store.tend() == ""
    assert store.database.execute("PRAGMA user_version").fetchone()[0] == SCHEMA.version
    assert [event.detail for event in store.events()] == ["on trial", "ok"]
    store.close()


def test_a_rollback_reads_and_writes_a_newer_schema(tmp_path: Path) -> None:
    path = old(0, tmp_path)
    connection = sqlite3.connect(path)
    for table in ("account", "claim", "event", "secret"):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN from_the_future TEXT")
    connection.execute("PRAGMA user_version=99")
    connection.commit()
    connection.close()
    store = Store(tmp_path)
    code = store.reset_claim()
    assert store.claim(code, Account("berta", "$hash$", 1.0))
    store.record(Event(1_790_000_100.0, "berta", "10.0.0.9", "login", "again"))
    assert store.events()[0].account == "berta"
    store.close()
