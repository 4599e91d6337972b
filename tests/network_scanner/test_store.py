"""The device store: what was known survives, and nothing grows without end."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from appliance_protocol.inventory import DeviceClass, ScanPolicy, ScanSummary
from network_scanner.facts import Fact, FactKind, Observation
from network_scanner.inventory import Inventory
from network_scanner.store import MAX_SCANS, Store, StoreError

NOW = 1_800_000_000.0
HOSTILE = "'; DROP TABLE devices; -- <b> 🏥"


def filled() -> Inventory:
    inventory = Inventory(lambda mac: "Dell Inc." if mac.startswith("98") else "")
    facts = (Fact(FactKind.DHCP_NAME, HOSTILE), Fact(FactKind.PORT, "22/tcp"))
    asset = inventory.observe(Observation(NOW, "98:e7:43:00:00:01", "10.0.0.5", facts, "arp", bound=True))
    assert asset is not None
    inventory.set_policy(asset.id, ScanPolicy.EXCLUDED, NOW)
    inventory.set_class(asset.id, DeviceClass.CAMERA, NOW)
    inventory.observe(Observation(NOW, "da:a1:19:00:00:01", "10.0.0.6", (), "arp", bound=True))
    return inventory


def test_devices_come_back_as_they_were_hostile_names_included(tmp_path: Path) -> None:
    inventory = filled()
    with contextlib.closing(Store(tmp_path / "devices.db")) as store:
        store.save(inventory)
    with contextlib.closing(Store(tmp_path / "devices.db")) as store:
        loaded = {asset.id: asset for asset in store.load()}
        again = Inventory(lambda mac: "")
        again.load(loaded.values())
        assert {key: asset.to_device() for key, asset in again.assets.items()} == {
            key: asset.to_device() for key, asset in inventory.assets.items()
        }
        excluded = next(asset for asset in loaded.values() if asset.policy is ScanPolicy.EXCLUDED)
        assert excluded.policy_by == "person"
        assert HOSTILE in excluded.name
        assert [event.kind for event in store.history(excluded.id)][:2] == ["class-set", "policy-changed"]


def test_saving_writes_what_changed_once_and_removes_what_is_gone(tmp_path: Path) -> None:
    inventory = filled()
    with contextlib.closing(Store(tmp_path / "devices.db")) as store:
        store.save(inventory)
        assert (inventory.changed, inventory.happenings) == (set(), [])
        gone = next(iter(inventory.assets.values()))
        inventory.forget(gone)
        store.save(inventory)
        assert gone.id not in {asset.id for asset in store.load()}
        assert store.history(gone.id) == []


def test_a_store_that_cannot_be_written_loses_nothing(tmp_path: Path) -> None:
    inventory, path = filled(), tmp_path / "devices.db"
    with contextlib.closing(Store(path)) as store:
        store._db.execute("PRAGMA query_only=1")
        with pytest.raises(StoreError, match="disk's space"):
            store.save(inventory)
        assert len(inventory.changed) == 2
        store._db.execute("PRAGMA query_only=0")
        store.save(inventory)
        assert len(store.load()) == 2


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_file_is_an_error_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "devices.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"devices\.db"):
        Store(path)


def test_an_older_program_reads_and_writes_beside_columns_a_newer_one_added(tmp_path: Path) -> None:
    path = tmp_path / "devices.db"
    with contextlib.closing(Store(path)) as store:
        store.save(filled())
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("ALTER TABLE devices ADD COLUMN owner TEXT NOT NULL DEFAULT ''")
        newer.execute("INSERT INTO facts VALUES ((SELECT id FROM devices LIMIT 1), 'from-the-future', 'x', 1, 1)")
        newer.execute("PRAGMA user_version=9")
        newer.commit()
    with contextlib.closing(Store(path)) as store:
        inventory = Inventory(lambda mac: "")
        inventory.load(store.load())
        inventory.observe(Observation(NOW + 9, "98:e7:43:00:00:01", "10.0.0.7", (), "arp", bound=True))
        store.save(inventory)
        assert store._db.execute("PRAGMA user_version").fetchone()[0] == 9


def test_scans_and_events_are_bounded_and_old_devices_forgotten_unless_a_person_spoke(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path / "devices.db")) as store:
        inventory = filled()
        for number in range(300):
            inventory.happen(next(iter(inventory.assets)), NOW + number, "presence", "x")
        store.save(inventory)
        rows = [(str(number), number) for number in range(MAX_SCANS + 50)]
        with store._db:
            store._db.executemany("INSERT INTO scans VALUES (?, ?, '{}')", rows)
        forgotten = store.prune(NOW + 40 * 86400)
        left = store.load()
        assert [asset.randomised for asset in left] == [False]
        assert len(forgotten) == 1
        assert store._db.execute("SELECT count(*) FROM scans").fetchone()[0] == MAX_SCANS
        assert len(store.history(left[0].id, 1000)) == 200
        store.prune(NOW + 4000 * 86400)
        assert len(store.load()) == 1, "a person excluded it: it is never forgotten"


def test_scans_and_settings_come_back(tmp_path: Path) -> None:
    scan = ScanSummary("abc", NOW, NOW + 9, "10.0.0.0/24", 3, 500, counts={"printer": 1})
    with contextlib.closing(Store(tmp_path / "devices.db")) as store:
        store.save_scan(scan)
        store.set_setting("paused_until", "forever")
        assert (store.scan("abc"), store.scan("x"), store.setting("paused_until"), store.setting("y")) == (
            scan, None, "forever", "")


def test_a_store_without_its_tables_is_no_empty_inventory(tmp_path: Path) -> None:
    """Who reads the exclusions must not take a file that holds none for a network without any."""
    sqlite3.connect(tmp_path / "devices.db").execute("CREATE TABLE other (x)").connection.close()
    store = Store(tmp_path / "devices.db", read_only=True)
    with contextlib.closing(store), pytest.raises(StoreError, match="no such table: devices"):
        store.load()
