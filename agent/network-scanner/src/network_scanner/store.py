"""The inventory on disk: SQLite in WAL mode, every table bounded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from appliance_protocol.inventory import DeviceClass, DeviceEvent, Presence, ScanPolicy, ScanSummary
from appliance_protocol.schema import TRIAL_MARK, Schema, Standing, bring_up, on_trial
from appliance_protocol.wire import prepare
from network_scanner.asset import Asset, Seen
from network_scanner.facts import Fact, FactKind
from network_scanner.inventory import Happening, Inventory

# Read in several threads below, see `prepare`.
prepare(ScanSummary)

MAX_EVENTS = 20_000
MAX_EVENTS_OF_DEVICE = 200
MAX_SCANS = 500
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

# Columns are always named, so that an older program can write beside columns that a newer one added.
_COLUMNS = (
    "id, first_seen, last_seen, device_class, confidence, reasons, class_locked, policy, policy_by, presence, missed, "
    "fragile"
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
            if read_only:
                self._db = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=5)
            else:
                self._db = sqlite3.connect(self.path, timeout=5)
            self._db.row_factory = sqlite3.Row
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
            assets = {row["id"]: _asset(row) for row in self._db.execute("SELECT * FROM devices")}
            for row in self._db.execute("SELECT * FROM addresses"):
                asset = assets.get(row["device_id"])
                if asset is not None:
                    table = asset.macs if row["kind"] == "mac" else asset.ips
                    table[row["address"]] = Seen(row["first_seen"], row["last_seen"])
            kinds = set(FactKind)
            for row in self._db.execute("SELECT * FROM facts"):
                asset = assets.get(row["device_id"])
                if asset is not None and row["kind"] in kinds:
                    known = Fact(FactKind(row["kind"]), row["value"])
                    asset.facts[known] = Seen(row["first_seen"], row["last_seen"])
        except (sqlite3.Error, ValueError, IndexError, msgspec.MsgspecError) as error:
            raise self._broken(error) from error
        return list(assets.values())

    def save(self, inventory: Inventory) -> None:
        """Write what changed, in one transaction; the inventory's lists are emptied only when it succeeded.

        Raises `StoreError`.
        """
        changed = [inventory.assets[key] for key in inventory.changed if key in inventory.assets]
        try:
            with self._db:
                for gone in inventory.removed:
                    self._db.execute("DELETE FROM devices WHERE id = ?", [gone])
                    self._db.execute("DELETE FROM events WHERE device_id = ?", [gone])
                for asset in changed:
                    self._save_asset(asset)
                self._save_events(inventory.happenings)
        except sqlite3.Error as error:
            raise self._broken(error) from error
        inventory.changed.clear()
        inventory.removed.clear()
        inventory.happenings.clear()

    def _save_asset(self, asset: Asset) -> None:
        row = (
            asset.id, asset.first_seen, asset.last_seen, asset.device_class.value, asset.confidence,
            msgspec.json.encode(asset.reasons).decode(), int(asset.class_locked), asset.policy.value, asset.policy_by,
            asset.presence.value, asset.missed, int(asset.fragile),
        )
        execute, executemany = self._db.execute, self._db.executemany
        execute(f"INSERT OR REPLACE INTO devices ({_COLUMNS}) VALUES ({','.join('?' * len(row))})", row)  # noqa: S608
        execute("DELETE FROM addresses WHERE device_id = ?", [asset.id])
        execute("DELETE FROM facts WHERE device_id = ?", [asset.id])
        for kind, table in (("mac", asset.macs), ("ip", asset.ips)):
            executemany(
                "INSERT INTO addresses (device_id, kind, address, first_seen, last_seen) VALUES (?, ?, ?, ?, ?)",
                [(asset.id, kind, address, seen.first, seen.last) for address, seen in table.items()],
            )
        executemany(
            "INSERT INTO facts (device_id, kind, value, first_seen, last_seen) VALUES (?, ?, ?, ?, ?)",
            [(asset.id, fact.kind.value, fact.value, seen.first, seen.last) for fact, seen in asset.facts.items()],
        )

    def _save_events(self, happenings: Iterable[Happening]) -> None:
        self._db.executemany(
            "INSERT INTO events (device_id, at, kind, detail) VALUES (?, ?, ?, ?)",
            [(item.asset_id, item.event.at, item.event.kind, item.event.detail) for item in happenings],
        )

    def history(self, device_id: str, limit: int = MAX_EVENTS_OF_DEVICE) -> list[DeviceEvent]:
        """Events of a device (of the network: empty id), the newest first. Raises `StoreError`."""
        sql = "SELECT at, kind, detail FROM events WHERE device_id = ? ORDER BY at DESC, id DESC LIMIT ?"
        return [DeviceEvent(row["at"], row["kind"], row["detail"]) for row in self._query(sql, [device_id, limit])]

    def save_scan(self, scan: ScanSummary) -> None:
        """Write a scan, running or finished. Raises `StoreError`."""
        try:
            with self._db:
                self._db.execute(
                    "INSERT OR REPLACE INTO scans (id, started_at, document) VALUES (?, ?, ?)",
                    [scan.id, scan.started_at, msgspec.json.encode(scan).decode()],
                )
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def scans(self, limit: int = 50) -> list[ScanSummary]:
        """Scans, the newest first. Raises `StoreError`."""
        rows = self._query("SELECT document FROM scans ORDER BY started_at DESC LIMIT ?", [limit])
        return [msgspec.json.decode(row["document"], type=ScanSummary) for row in rows]

    def scan(self, scan_id: str) -> ScanSummary | None:
        """One scan, or None. Raises `StoreError`."""
        rows = self._query("SELECT document FROM scans WHERE id = ?", [scan_id])
        return msgspec.json.decode(rows[0]["document"], type=ScanSummary) if rows else None

    def setting(self, key: str) -> str:
        """A setting that outlives a restart, or an empty string. Raises `StoreError`."""
        rows = self._query("SELECT value FROM settings WHERE key = ?", [key])
        return str(rows[0]["value"]) if rows else ""

    def set_setting(self, key: str, value: str) -> None:
        """Keep a setting. Raises `StoreError`."""
        try:
            with self._db:
                self._db.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", [key, value])
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def prune(self, now: float) -> list[str]:
        """Forget what is beyond its bound; returns the ids of the devices forgotten. Raises `StoreError`."""
        stale = (
            "SELECT id FROM devices WHERE class_locked = 0 AND policy_by != 'person' AND (last_seen < ? OR "
            "(last_seen < ? AND id IN (SELECT device_id FROM facts WHERE kind = 'randomised') "
            "AND id NOT IN (SELECT device_id FROM facts WHERE kind = 'vendor')))"
        )
        limits = [now - KEEP_DAYS * 86400, now - KEEP_RANDOMISED_DAYS * 86400]
        try:
            with self._db:
                gone = [row[0] for row in self._db.execute(stale, limits)]
                self._db.executemany("DELETE FROM devices WHERE id = ?", [[item] for item in gone])
                self._db.execute(
                    "DELETE FROM events WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY "
                    "device_id ORDER BY id DESC) AS place FROM events) WHERE place > ?)", [MAX_EVENTS_OF_DEVICE],
                )
                self._db.execute(
                    "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", [MAX_EVENTS]
                )
                self._db.execute(
                    "DELETE FROM scans WHERE id NOT IN (SELECT id FROM scans ORDER BY started_at DESC LIMIT ?)",
                    [MAX_SCANS],
                )
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return gone

    def _query(self, sql: str, parameters: list[object]) -> list[sqlite3.Row]:
        try:
            return list(self._db.execute(sql, parameters))
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> StoreError:
        return StoreError(f"device store {self.path}: {error}; check the disk's space and the file's owner")


def _asset(row: sqlite3.Row) -> Asset:
    return Asset(
        id=row["id"], first_seen=row["first_seen"], last_seen=row["last_seen"],
        device_class=DeviceClass(row["device_class"]), confidence=row["confidence"],
        reasons=msgspec.json.decode(row["reasons"], type=tuple[str, ...]), class_locked=bool(row["class_locked"]),
        policy=ScanPolicy(row["policy"]), policy_by=row["policy_by"], presence=Presence(row["presence"]),
        missed=row["missed"], fragile=bool(row["fragile"]),
    )
