"""The agent's databases of every schema there was: used on trial as they are, brought up after it, read on."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from appliance_protocol.evidence import ChainHead
from appliance_protocol.schema import Schema
from compliance_agent import ledger as ledgers
from compliance_agent import store as stores
from compliance_agent.database import Database
from compliance_agent.evidence_writer import sign
from compliance_agent.ledger import Ledger, Sealed
from compliance_agent.store import Store
from tests.compliance_agent.test_ledger import KEY, draft

CORPUS = Path(__file__).with_name("databases")
DEVICE = "d-0123456789"


def sealed(head: ChainHead) -> Sealed:
    bundle = dataclasses.replace(draft(), device_id=DEVICE, sequence=head.sequence + 1, previous=head.digest)
    return sign(bundle, KEY)


def old(name: str, version: int, directory: Path) -> Path:
    """A database as an earlier release left it."""
    path = directory / f"{name}.db"
    connection = sqlite3.connect(path)
    connection.executescript((CORPUS / f"{name}-{version}.sql").read_text())
    connection.close()
    return path


def user_version(path: Path) -> int:
    connection = sqlite3.connect(path)
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    connection.close()
    return found


def dumps(name: str) -> list[int]:
    return sorted(int(path.stem.rpartition("-")[2]) for path in CORPUS.glob(f"{name}-*.sql"))


@pytest.mark.parametrize("name, schema", [("agent", stores.SCHEMA), ("evidence", ledgers.SCHEMA)])
def test_the_corpus_holds_a_database_of_every_older_schema(name: str, schema: Schema) -> None:
    """When this fails: a step was added; dump a database of the schema before it (`iterdump`) into the corpus."""
    assert dumps(name) == list(range(schema.version))


def on_trial(database: Database, mark: Path) -> None:
    mark.touch()
    database._trial_mark = mark


@pytest.mark.parametrize("version", dumps("agent"))
def test_on_trial_the_agents_memory_is_read_and_written_as_it_is(tmp_path: Path, version: int) -> None:
    path, mark = old("agent", version, tmp_path), tmp_path / "trial"
    store = Store(path)
    on_trial(store.database, mark)
    assert [result.check_id for result in store.latest()] == ["check-0", "check-1"]
    assert store.fact("assigned_version") == "2026.11.1"
    assert [record.order.order_id for record in store.open_orders()] == ["order-1"]
    store.remember("written", "on trial")
    store.prune(0.0)
    assert user_version(path) == version
    assert store.database.standing.held

    mark.unlink()  # the trial is over, and the agent goes on running
    assert store.fact("written") == "on trial"
    assert user_version(path) == stores.SCHEMA.version
    assert not store.database.standing.held
    store.database.close()


@pytest.mark.parametrize("version", dumps("evidence"))
def test_on_trial_evidence_is_appended_to_the_ledger_as_it_is(tmp_path: Path, version: int) -> None:
    path, mark = old("evidence", version, tmp_path), tmp_path / "trial"
    ledger = Ledger(path)
    on_trial(ledger.database, mark)
    assert ledger.append(DEVICE, sealed).sequence == 4
    assert ledger.next_number("checkin", 0) == 6
    assert user_version(path) == version
    mark.unlink()
    assert ledger.append(DEVICE, sealed).sequence == 5
    assert user_version(path) == ledgers.SCHEMA.version
    assert ledger.backlog(DEVICE)[0] == 4, "the first of five was sent"
    ledger.database.close()


def test_a_migration_never_begins_in_the_middle_of_a_transaction(tmp_path: Path) -> None:
    path, mark = old("evidence", 0, tmp_path), tmp_path / "trial"
    ledger = Ledger(path)
    on_trial(ledger.database, mark)
    ledger.head(DEVICE)
    with ledger.database.transaction() as database:
        mark.unlink()
        assert ledger.head(DEVICE).sequence == 3
        assert database.conn.in_transaction
    ledger.head(DEVICE)
    assert user_version(path) == ledgers.SCHEMA.version
    ledger.database.close()


def test_a_rollback_reads_and_writes_a_newer_schema(tmp_path: Path) -> None:
    """This program is the older one: somebody added a column to every table, and went away again."""
    for name, make in (("agent", Store), ("evidence", Ledger)):
        path = old(name, 0, tmp_path)
        connection = sqlite3.connect(path)
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN from_the_future TEXT")
        connection.execute("PRAGMA user_version=99")
        connection.commit()
        connection.close()
        kept = make(path)
        if isinstance(kept, Store):
            kept.remember("a", "b")
            assert kept.open_orders()
        else:
            assert kept.append(DEVICE, sealed).sequence == 4
            assert kept.next_number("checkin", 0) == 6
        kept.database.close()
        assert user_version(path) == 99


def test_a_migration_that_fails_is_told_as_a_problem_of_the_agent(tmp_path: Path) -> None:
    path = old("agent", 0, tmp_path)
    broken = Schema((*stores.SCHEMA.steps, ("ALTER TABLE no_such_table ADD COLUMN x",)))
    database = Database(path, broken)
    assert database.rows("facts")
    assert database.problem.startswith(f"{path}: its schema stays at 0, 2 is wanted")
    assert user_version(path) == 0
    database.close()
