"""The inventory on disk: SQLite in WAL mode by way of sqlite-utils, every table bounded."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlite_utils.db import NotFoundError, Table

from appliance_protocol.inventory import DeviceClass, DeviceEvent, Presence, ScanPolicy, ScanSummary
from appliance_protocol.schema import TRIAL_MARK, Schema, Standing, bring_up, on_trial
from appliance_protocol.tables import Tables
from appliance_protocol.transactions import Connection, transaction
from appliance_protocol.wire import prepare
from network_scanner.asset import Asset, Seen
from network_scanner.facts import Fact, FactKind
from network_scanner.inventory import Happening, Inventory

# Read in several threads below, see `prepare`.
prepare(ScanSummary)

MAX_EVENTS = 20_000
MAX_EVENTS_OF_DEVICE = 200
MAX_SCANS = 500
Row = dict[str, Any]
KEEP_DAYS = 365
"""Days for which a device that is gone, and about which no person said anything, is kept."""
KEEP_RANDOMISED_DAYS = 30
"""The same for devices that only ever showed made-up addresses."""

SCHEMA = Schema(
    steps=(
        (
            """
            CREATE TABLE IF NOT EXISTS devices (
              id TEXT PRIMARY KEY, first_seen REAL NOT NULL, last_seen REAL NOT NULL, device_class TEXT NOT NULL,
              confidence REAL NOT NULL, reasons TEXT NOT NULL, class_locked INTEGER NOT NULL, policy TEXT NOT NULL,
              policy_by TEXT NOT NULL, presence TEXT NOT NULL, missed INTEGER NOT NULL, fragile INTEGER NOT NULL)
            """,
            """
            CREATE TABLE IF NOT EXISTS addresses (
              device_id TEXT NOT NULL REFERENCES devices(id) ON DELETE CASCADE, kind TEXT NOT NULL,
              address TEXT NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL,
              PRIMARY KEY (device_id, kind, address)) WITHOUT ROWID
            """,
            """
            CREATE TABLE IF NOT EXISTS facts (
              device_id TEXT NOT NULL REFERENCES devices(id) ON DELETE CASCADE, kind TEXT NOT NULL, value TEXT NOT NULL,
              first_seen REAL NOT NULL, last_seen REAL NOT NULL, PRIMARY KEY (device_id, kind, value)) WITHOUT ROWID
            """,
            """
            CREATE TABLE IF NOT EXISTS events (
              id INTEGER PRIMARY KEY, device_id TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL,
              detail TEXT NOT NULL)
            """,
            "CREATE INDEX IF NOT EXISTS events_device ON events(device_id, at)",
            "CREATE TABLE IF NOT EXISTS scans (id TEXT PRIMARY KEY, started_at REAL NOT NULL, document TEXT NOT NULL)",
            "CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        ),
    )
)

class StoreError(RuntimeError):
    """A store that cannot be opened, read or written; the message names the file and what to do."""


class Store:
    """The database. One process writes; others may read."""

    def __init__(self, path: Path | str, *, read_only: bool = False, trial_mark: Path = TRIAL_MARK) -> None:
        """Open or create the database. Raises `StoreError`."""
        self.path = str(path)
        self._trial_mark = trial_mark
        self.standing = Standing(SCHEMA.version)
        try:
            name = f"file:{self.path}?mode=ro" if read_only else self.path
            self._db = sqlite3.connect(name, uri=read_only, timeout=5, isolation_level=None, factory=Connection)
            self._tables = Tables(self._db)
            if not read_only:
                self._prepare()
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA foreign_keys=ON")
        self._db.execute("PRAGMA journal_size_limit=4194304")
        # A newer schema is read as it is: changes only ever add (expand, then contract), so that a rollback can go on.
        self.standing = bring_up(self._db, SCHEMA, held=on_trial(self._trial_mark))

    def tend(self) -> str:
        """Change the schema once a trial is over; what is wrong with it, or an empty text. Raises `StoreError`."""
        if self.standing.held and not self._db.in_transaction:
            try:
                self.standing = bring_up(self._db, SCHEMA, held=on_trial(self._trial_mark))
            except sqlite3.Error as error:
                raise self._broken(error) from error
        return f"device store {self.path}: {self.standing.problem}" if self.standing.problem else ""

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def load(self) -> list[Asset]:
        """Every device. Raises `StoreError`."""
        try:
            assets = {row["id"]: _asset(row) for row in self._table("devices").rows}
            for row in self._table("addresses").rows:
                asset = assets.get(row["device_id"])
                if asset is not None:
                    table = asset.macs if row["kind"] == "mac" else asset.ips
                    table[row["address"]] = Seen(row["first_seen"], row["last_seen"])
            kinds = set(FactKind)
            for row in self._table("facts").rows:
                asset = assets.get(row["device_id"])
                if asset is not None and row["kind"] in kinds:
                    known = Fact(FactKind(row["kind"]), row["value"])
                    asset.facts[known] = Seen(row["first_seen"], row["last_seen"])
        except (sqlite3.Error, ValueError, KeyError, msgspec.MsgspecError) as error:
            raise self._broken(error) from error
        return list(assets.values())

    def save(self, inventory: Inventory) -> None:
        """Write what changed, in one transaction; the inventory's lists are emptied only when it succeeded.

        Raises `StoreError`.
        """
        changed = [inventory.assets[key] for key in inventory.changed if key in inventory.assets]
        with self._writing():
            for gone in inventory.removed:
                self._table("devices").delete_where("id = ?", [gone])
                self._table("events").delete_where("device_id = ?", [gone])
            self._save_assets(changed)
            self._table("events").insert_all(_event_row(happening) for happening in inventory.happenings)
        inventory.changed.clear()
        inventory.removed.clear()
        inventory.happenings.clear()

    def _save_assets(self, assets: Sequence[Asset]) -> None:
        # Not upsert: in sqlite-utils 3 it drops, without a word, new rows of tables whose columns must not be null.
        self._table("devices").insert_all(map(_device_row, assets), replace=True)
        for name in ("addresses", "facts"):
            for asset in assets:
                self._table(name).delete_where("device_id = ?", [asset.id])
        self._table("addresses").insert_all(row for asset in assets for row in _address_rows(asset))
        self._table("facts").insert_all(row for asset in assets for row in _fact_rows(asset))

    def history(self, device_id: str, limit: int = MAX_EVENTS_OF_DEVICE) -> list[DeviceEvent]:
        """Events of a device (of the network: empty id), the newest first. Raises `StoreError`."""
        rows = self._rows("events", "device_id = ?", [device_id], order_by="at DESC, id DESC", limit=limit)
        return [DeviceEvent(row["at"], row["kind"], row["detail"]) for row in rows]

    def save_scan(self, scan: ScanSummary) -> None:
        """Write a scan, running or finished. Raises `StoreError`."""
        row = {"id": scan.id, "started_at": scan.started_at, "document": msgspec.json.encode(scan).decode()}
        with self._writing():
            self._table("scans").insert(row, replace=True)

    def scans(self, limit: int = 50) -> list[ScanSummary]:
        """Scans, the newest first. Raises `StoreError`."""
        rows = self._rows("scans", order_by="started_at DESC", limit=limit)
        return [msgspec.json.decode(row["document"], type=ScanSummary) for row in rows]

    def scan(self, scan_id: str) -> ScanSummary | None:
        """One scan, or None. Raises `StoreError`."""
        row = self._get("scans", scan_id)
        return msgspec.json.decode(row["document"], type=ScanSummary) if row else None

    def setting(self, key: str) -> str:
        """A setting that outlives a restart, or an empty string. Raises `StoreError`."""
        row = self._get("settings", key)
        return str(row["value"]) if row else ""

    def set_setting(self, key: str, value: str) -> None:
        """Keep a setting. Raises `StoreError`."""
        with self._writing():
            self._table("settings").insert({"key": key, "value": value}, replace=True)

    def prune(self, now: float) -> list[str]:
        """Forget what is beyond its bound; returns the ids of the devices forgotten. Raises `StoreError`."""
        stale = (
            "class_locked = 0 AND policy_by != 'person' AND (last_seen < ? OR "
            "(last_seen < ? AND id IN (SELECT device_id FROM facts WHERE kind = 'randomised') "
            "AND id NOT IN (SELECT device_id FROM facts WHERE kind = 'vendor')))"
        )
        surplus = (
            "id <= (SELECT max(id) FROM events) - ? OR id IN (SELECT id FROM (SELECT id, row_number() OVER "
            "(PARTITION BY device_id ORDER BY id DESC) AS place FROM events) WHERE place > ?)"
        )
        limits = [now - KEEP_DAYS * 86400, now - KEEP_RANDOMISED_DAYS * 86400]
        with self._writing():
            gone = [row["id"] for row in self._table("devices").rows_where(stale, limits, select="id")]
            for item in gone:
                self._table("devices").delete_where("id = ?", [item])
            self._table("events").delete_where(surplus, [MAX_EVENTS, MAX_EVENTS_OF_DEVICE])
            newest = "SELECT id FROM scans ORDER BY started_at DESC LIMIT ?"
            self._table("scans").delete_where(f"id NOT IN ({newest})", [MAX_SCANS])
        return gone

    def _table(self, name: str) -> Table:
        return self._tables.table(name)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction. Raises `StoreError`; nothing of it is written then."""
        try:
            with transaction(self._db):
                yield
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _rows(self, table: str, where: str | None = None, values: Sequence[str] = (), **shape: Any) -> list[Row]:
        try:
            return list(self._table(table).rows_where(where, values, **shape))
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _get(self, table: str, key: str) -> Row | None:
        try:
            return self._table(table).get(key)
        except NotFoundError:
            return None
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> StoreError:
        return StoreError(f"device store {self.path}: {error}; check the disk's space and the file's owner")


def _device_row(asset: Asset) -> Row:
    return {
        "id": asset.id, "first_seen": asset.first_seen, "last_seen": asset.last_seen,
        "device_class": asset.device_class.value, "confidence": asset.confidence,
        "reasons": msgspec.json.encode(asset.reasons).decode(), "class_locked": int(asset.class_locked),
        "policy": asset.policy.value, "policy_by": asset.policy_by, "presence": asset.presence.value,
        "missed": asset.missed, "fragile": int(asset.fragile),
    }


def _address_rows(asset: Asset) -> Iterable[Row]:
    for kind, table in (("mac", asset.macs), ("ip", asset.ips)):
        for address, seen in table.items():
            yield {"device_id": asset.id, "kind": kind, "address": address, "first_seen": seen.first,
                   "last_seen": seen.last}


def _fact_rows(asset: Asset) -> Iterable[Row]:
    for fact, seen in asset.facts.items():
        yield {"device_id": asset.id, "kind": fact.kind.value, "value": fact.value, "first_seen": seen.first,
               "last_seen": seen.last}


def _event_row(happening: Happening) -> Row:
    event = happening.event
    return {"device_id": happening.asset_id, "at": event.at, "kind": event.kind, "detail": event.detail}


def _asset(row: Row) -> Asset:
    return Asset(
        id=row["id"], first_seen=row["first_seen"], last_seen=row["last_seen"],
        device_class=DeviceClass(row["device_class"]), confidence=row["confidence"],
        reasons=msgspec.json.decode(row["reasons"], type=tuple[str, ...]), class_locked=bool(row["class_locked"]),
        policy=ScanPolicy(row["policy"]), policy_by=row["policy_by"], presence=Presence(row["presence"]),
        missed=row["missed"], fragile=bool(row["fragile"]),
    )
