"""The scanner's database of every schema there was: used on trial as it is, brought up after it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from network_scanner.inventory import Inventory
from network_scanner.store import SCHEMA, Store

CORPUS = Path(__file__).with_name("databases")
VERSIONS = sorted(int(path.stem.rpartition("-")[2]) for path in CORPUS.glob("devices-*.sql"))


def old(version: int, directory: Path) -> Path:
    path = directory / "devices.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((CORPUS / f"devices-{version}.sql").read_text())
    return path


def user_version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_the_corpus_holds_a_database_of_every_schema() -> None:
    """When this fails: a step was added; dump a database of the new schema (`iterdump`) into the corpus as well."""
    assert list(range(1, SCHEMA.version + 1)) == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_on_trial_devices_are_read_and_written_as_they_are(tmp_path: Path, version: int) -> None:
    path, mark = old(version, tmp_path), tmp_path / "trial"
    mark.touch()
    with contextlib.closing(Store(path, trial_mark=mark)) as store:
        inventory = Inventory(lambda mac: "")
        inventory.load(store.load())
        assert len(inventory.assets) == 2
        inventory.changed.update(inventory.assets)
        store.save(inventory)
        assert store.tend() == ""
        assert user_version(path) == version
        mark.unlink()
        assert store.tend() == ""
        assert len(store.load()) == 2
    assert user_version(path) == SCHEMA.version


def test_a_schema_that_has_to_wait_is_changed_when_the_trial_is_over(tmp_path: Path) -> None:
    """From before schemas had numbers."""
    path, mark = old(1, tmp_path), tmp_path / "trial"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=0")
    mark.touch()
    with contextlib.closing(Store(path, trial_mark=mark)) as store:
        assert store.standing.held
        store.tend()
        assert user_version(path) == 0
        mark.unlink()
        store.tend()
        assert user_version(path) == SCHEMA.version
