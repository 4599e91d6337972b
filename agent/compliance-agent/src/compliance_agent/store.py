"""What the agent remembers besides its evidence (`agent.db`): verdicts, scores, orders.

Bounded: verdicts are kept when they change and once an hour, and pruned after the retention. A rollback may restore
an older copy of this file; nothing in it has to be newer than the image.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlite_utils.db import NotFoundError

from appliance_protocol.local_models import ScorePoint
from appliance_protocol.orders import Order, OrderState
from appliance_protocol.schema import Schema
from appliance_protocol.tables import Tables
from appliance_protocol.verdict import CheckResult, Score
from appliance_protocol.wire import canonical, decode
from compliance_agent.database import Database

ASSIGNED = "assigned_version"
"""The fact under which the release lies that Central Command assigned to this box."""
HISTORY_SPACING = 3600.0
"""Seconds after which an unchanged verdict or score enters the history again."""


SCHEMA = Schema(
    steps=(
        (
            "CREATE TABLE IF NOT EXISTS latest (check_id TEXT PRIMARY KEY, result BLOB NOT NULL)",
            """
            CREATE TABLE IF NOT EXISTS history (
              id INTEGER PRIMARY KEY, check_id TEXT NOT NULL, checked_at REAL NOT NULL, verdict TEXT NOT NULL,
              reason TEXT NOT NULL, result BLOB NOT NULL)
            """,
            "CREATE INDEX IF NOT EXISTS history_by_check ON history (check_id, checked_at)",
            """
            CREATE TABLE IF NOT EXISTS scores (
              id INTEGER PRIMARY KEY, at REAL NOT NULL, conforming INTEGER NOT NULL, counted INTEGER NOT NULL)
            """,
            "CREATE INDEX IF NOT EXISTS scores_by_time ON scores (at)",
            """
            CREATE TABLE IF NOT EXISTS orders (
              order_id TEXT PRIMARY KEY, document BLOB NOT NULL, state TEXT NOT NULL, received_at REAL NOT NULL,
              started_at REAL, attempts INTEGER NOT NULL DEFAULT 0, message TEXT NOT NULL DEFAULT '',
              details TEXT NOT NULL DEFAULT '{}', context TEXT NOT NULL DEFAULT '{}',
              finished_at REAL, reported_at REAL)
            """,
            "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        ),
    )
)


@dataclass(frozen=True)
class OrderRecord:
    """An order and how far it has come. `context` is the handler's own memory across restarts."""

    order: Order
    state: OrderState
    received_at: float
    attempts: int = 0
    started_at: float | None = None
    message: str = ""
    details: dict[str, str] | None = None
    context: dict[str, str] | None = None
    finished_at: float | None = None
    reported_at: float | None = None


class Store:
    """The agent's memory. Every method may block on the disk and raises `StoreError` when it fails."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.database = Database(path, SCHEMA, read_only=read_only)

    # -- verdicts and scores --

    def record(self, results: Iterable[CheckResult], score: Score, at: float) -> None:
        """Keep the latest verdicts, and those that changed (or are due) in the history."""
        with self.database.transaction() as database:
            for result in results:
                document = canonical(result)
                database.table("latest").insert({"check_id": result.check_id, "result": document}, replace=True)
                known = {"verdict": result.verdict.value, "reason": result.reason}
                last = _newest(database, "history", "check_id = ?", (result.check_id,))
                if _news(last, known) or abs(result.checked_at - last["checked_at"]) >= HISTORY_SPACING:
                    entry = {"check_id": result.check_id, "checked_at": result.checked_at, "result": document}
                    database.table("history").insert(entry | known)
            now = {"conforming": score.conforming, "counted": score.counted}
            last = _newest(database, "scores")
            if _news(last, now) or abs(at - last["at"]) >= HISTORY_SPACING:
                database.table("scores").insert({"at": at, **now})

    def latest(self) -> list[CheckResult]:
        """The latest verdict of each check, by id; one that cannot be read any more is left out."""
        return _results(self.database.rows("latest", order_by="check_id"))

    def forget(self, kept: Iterable[str]) -> None:
        """Drop the latest verdicts of checks this release does not have."""
        names = tuple(kept)
        marks = ",".join("?" * len(names))
        with self.database.transaction() as database:
            database.table("latest").delete_where(f"check_id NOT IN ({marks})", names)

    def history(self, check_id: str, limit: int) -> list[CheckResult]:
        """The verdicts of one check, newest first."""
        return _results(self.database.rows("history", "check_id = ?", (check_id,), order_by="id DESC", limit=limit))

    def scores(self, since: float) -> list[ScorePoint]:
        """The score over time, oldest first."""
        rows = self.database.rows("scores", "at >= ?", (since,), order_by="id")
        return [ScorePoint(row["at"], row["conforming"], row["counted"]) for row in rows]

    def conforming_since(self) -> float | None:
        """Since when every counted check conforms; None when one does not."""
        rows = self.database.query(
            "SELECT min(at) AS since FROM scores WHERE counted > 0 AND conforming = counted AND id > "
            "(SELECT coalesce(max(id), 0) FROM scores WHERE counted = 0 OR conforming < counted)"
        )
        since = rows[0]["since"]
        return None if since is None else float(since)

    # -- small facts --

    def fact(self, name: str) -> str | None:
        """What was remembered under `name`."""
        row = self.database.get("facts", name)
        return row["value"] if row else None

    def remember(self, name: str, value: str) -> None:
        """Remember `value` under `name`."""
        with self.database.transaction() as database:
            database.table("facts").insert({"name": name, "value": value}, replace=True)

    # -- orders --

    def receive(self, order: Order, at: float) -> bool:
        """Take an order once. One that is finished is reported again: the server would not repeat it otherwise."""
        with self.database.transaction() as database:
            new = self.database.get("orders", order.order_id) is None
            if new:
                document, state = canonical(order), OrderState.PENDING.value
                database.table("orders").insert(
                    {"order_id": order.order_id, "document": document, "state": state, "received_at": at}
                )
            else:
                database.table("orders").update(order.order_id, {"reported_at": None})
        return new

    def save_order(self, record: OrderRecord) -> None:
        """Keep how far an order has come."""
        changes = {
            "state": record.state.value,
            "started_at": record.started_at,
            "attempts": record.attempts,
            "message": record.message,
            "details": json.dumps(record.details or {}),
            "context": json.dumps(record.context or {}),
            "finished_at": record.finished_at,
            "reported_at": record.reported_at,
        }
        # A database that was damaged and begun anew meanwhile does not know the order.
        with self.database.transaction() as database, contextlib.suppress(NotFoundError):
            database.table("orders").update(record.order.order_id, changes)

    def open_orders(self) -> list[OrderRecord]:
        """The orders that are not finished, in the order they were issued."""
        return self._orders("state IN ('pending', 'executing')")

    def unreported_orders(self) -> list[OrderRecord]:
        """The finished orders whose result the server has not taken."""
        return self._orders("state NOT IN ('pending', 'executing') AND reported_at IS NULL")

    def order(self, order_id: str) -> OrderRecord | None:
        """One order."""
        found = self._orders("order_id = ?", (order_id,))
        return found[0] if found else None

    def _orders(self, condition: str, parameters: tuple[str, ...] = ()) -> list[OrderRecord]:
        rows = self.database.rows("orders", condition, parameters, order_by="received_at, rowid")
        return [
            OrderRecord(
                order=decode(row["document"], Order),
                state=OrderState(row["state"]),
                received_at=row["received_at"],
                attempts=row["attempts"],
                started_at=row["started_at"],
                message=row["message"],
                details=json.loads(row["details"]),
                context=json.loads(row["context"]),
                finished_at=row["finished_at"],
                reported_at=row["reported_at"],
            )
            for row in rows
        ]

    # -- bounds --

    def prune(self, before: float) -> int:
        """Forget history older than `before`; open and unreported orders stay. Returns how many rows went."""
        with self.database.transaction() as database:
            kept = database.conn.total_changes
            database.table("history").delete_where("checked_at < ?", (before,))
            database.table("scores").delete_where("at < ? AND id < (SELECT max(id) FROM scores)", (before,))
            database.table("orders").delete_where("finished_at < ? AND reported_at IS NOT NULL", (before,))
            removed = database.conn.total_changes - kept
        self.database.vacuum()
        return removed


def _newest(
    database: Tables, table: str, where: str | None = None, parameters: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The newest row of a history; empty when there is none."""
    return next(database.table(table).rows_where(where, parameters, order_by="id DESC", limit=1), {})


def _news(last: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether what is known now differs from the last entry, or is the first."""
    return any(last.get(name) != value for name, value in now.items())


def _results(rows: list[dict[str, Any]]) -> list[CheckResult]:
    results = []
    for row in rows:
        try:
            results.append(decode(row["result"], CheckResult))
        except ValueError:
            continue
    return results
