"""The device's evidence: append-only, numbered, chained, kept until Central Command has it.

It has a file of its own (`evidence.db`), which no rollback restores: rolling a chain back would fork it. Should it
happen all the same (a restored disk image, a lost file), the device adopts the head that Central Command holds and
goes on from there, with what the server has not seen signed again at its new place.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance_protocol.clock import ClockState
from appliance_protocol.envelope import Envelope, parse
from appliance_protocol.evidence import ChainHead, EvidenceBundle, EvidenceCause, payload_digest
from appliance_protocol.local_models import EvidenceEntry
from appliance_protocol.schema import Schema
from appliance_protocol.tables import Tables
from appliance_protocol.wire import decode
from compliance_agent.database import Database

UPLOAD_BYTES = 1 << 20
"""Envelopes of about this size in sum go into one upload (always at least one)."""


@dataclass(frozen=True)
class Sealed:
    """A bundle and its signed form."""

    bundle: EvidenceBundle
    envelope: Envelope

    @property
    def digest(self) -> str:
        """The payload's digest, by which the next bundle names this one."""
        return payload_digest(self.envelope.payload_bytes)


Seal = Callable[[ChainHead], Sealed]
"""Makes the bundle that continues a head."""
Reseal = Callable[[EvidenceBundle, ChainHead], Sealed]
"""Signs an existing bundle again as the one that continues a head."""


SCHEMA = Schema(
    steps=(
        (
            """
            CREATE TABLE IF NOT EXISTS evidence (
              device_id TEXT NOT NULL, sequence INTEGER NOT NULL, digest TEXT NOT NULL, written_at REAL NOT NULL,
              cause TEXT NOT NULL, clock TEXT NOT NULL, size INTEGER NOT NULL, verdict_counts TEXT NOT NULL,
              envelope BLOB NOT NULL, sent_at REAL, PRIMARY KEY (device_id, sequence))
            """,
            """
            CREATE TABLE IF NOT EXISTS superseded (
              device_id TEXT NOT NULL, sequence INTEGER NOT NULL, digest TEXT NOT NULL, envelope BLOB NOT NULL,
              superseded_at REAL NOT NULL, PRIMARY KEY (device_id, sequence, digest))
            """,
            """
            CREATE TABLE IF NOT EXISTS adopted (
              device_id TEXT NOT NULL, sequence INTEGER NOT NULL, digest TEXT NOT NULL, adopted_at REAL NOT NULL,
              PRIMARY KEY (device_id, sequence, digest))
            """,
            "CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
            "CREATE INDEX IF NOT EXISTS evidence_unsent ON evidence (device_id, sequence) WHERE sent_at IS NULL",
            """
            CREATE TRIGGER IF NOT EXISTS evidence_append_only
              BEFORE UPDATE OF device_id, sequence, digest, envelope ON evidence
              BEGIN SELECT RAISE(ABORT, 'evidence is append-only'); END
            """,
        ),
    )
)


class Ledger:
    """The evidence of this device. Every method may block on the disk and raises `StoreError` when it fails."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.database = Database(path, SCHEMA, read_only=read_only)

    def head(self, device_id: str) -> ChainHead:
        """The newest bundle; the genesis head when there is none."""
        rows = self.database.query(
            "SELECT sequence, digest FROM evidence WHERE device_id = ? UNION ALL "
            "SELECT sequence, digest FROM adopted WHERE device_id = ? ORDER BY sequence DESC LIMIT 1",
            (device_id, device_id),
        )
        return ChainHead(rows[0]["sequence"], rows[0]["digest"]) if rows else ChainHead()

    def append(self, device_id: str, seal: Seal) -> EvidenceEntry:
        """Seal a bundle onto the head and keep it; on disk when this returns, and not at all when it raises."""
        with self.database.transaction() as database:
            return _insert(database, seal(self.head(device_id)))

    def unsent(self, device_id: str, after: int, limit: int) -> list[Envelope]:
        """The envelopes that follow sequence `after`, oldest first, as many as fit one upload."""
        rows = self.database.rows(
            "evidence",
            "device_id = ? AND sequence > ?",
            (device_id, after),
            order_by="sequence",
            limit=limit,
        )
        chosen: list[Envelope] = []
        total = 0
        for row in rows:
            total += row["size"]
            if chosen and total > UPLOAD_BYTES:
                break
            chosen.append(parse(row["envelope"]))
        return chosen

    def digest_at(self, device_id: str, sequence: int) -> str | None:
        """The digest of the bundle at `sequence`; None when it is not kept here (any more)."""
        row = self.database.get("evidence", (device_id, sequence))
        return row["digest"] if row else None

    def mark_sent(self, device_id: str, up_to: int, at: float) -> None:
        """Central Command has every bundle up to sequence `up_to`."""
        waiting = "device_id = ? AND sequence <= ? AND sent_at IS NULL"
        if not self.database.rows("evidence", waiting, (device_id, up_to), select="sequence", limit=1):
            return  # the usual minute: nothing to write, and the disk stays quiet
        with self.database.transaction() as database:
            database.execute(f"UPDATE evidence SET sent_at = ? WHERE {waiting}", (at, device_id, up_to))  # noqa: S608

    def backlog(self, device_id: str, after: int = 0) -> tuple[int, float | None, int]:
        """How many bundles after a sequence wait, since when (seconds since the epoch), and their size in bytes."""
        row = self.database.query(
            "SELECT count(*) AS pending, min(written_at) AS oldest, coalesce(sum(size), 0) AS bytes "
            "FROM evidence WHERE device_id = ? AND sent_at IS NULL AND sequence > ?",
            (device_id, after),
        )[0]
        return row["pending"], row["oldest"], row["bytes"]

    def entries(self, device_id: str, before: int | None = None, limit: int = 100) -> list[EvidenceEntry]:
        """The bundles before a sequence (exclusive), newest first."""
        rows = self.database.rows(
            "evidence",
            "device_id = ? AND sequence < ?",
            (device_id, before if before is not None else 1 << 62),
            order_by="sequence DESC",
            select="sequence, written_at, cause, digest, size, clock, verdict_counts, sent_at",
            limit=limit,
        )
        return [_entry(row) for row in rows]

    def envelope(self, device_id: str, sequence: int) -> Envelope | None:
        """One bundle as it was signed; None when it is not kept here."""
        row = self.database.get("evidence", (device_id, sequence))
        return parse(row["envelope"]) if row else None

    def envelopes(self, device_id: str, first: int = 1, last: int | None = None) -> Iterator[Envelope]:
        """Every bundle kept, oldest first, read in pages."""
        last = last if last is not None else 1 << 62
        while True:
            rows = self.database.rows(
                "evidence",
                "device_id = ? AND sequence BETWEEN ? AND ?",
                (device_id, first, last),
                order_by="sequence",
                limit=100,
            )
            yield from (parse(row["envelope"]) for row in rows)
            if not rows:
                return
            first = rows[-1]["sequence"] + 1

    def adopted(self, device_id: str) -> list[ChainHead]:
        """The heads this device took over from Central Command, oldest first."""
        rows = self.database.rows("adopted", "device_id = ?", (device_id,), order_by="sequence")
        return [ChainHead(row["sequence"], row["digest"]) for row in rows]

    def rebase(self, device_id: str, server: ChainHead, reseal: Reseal, at: float) -> int:
        """Continue from the server's head: what it has not taken is signed again behind it. Returns how many.

        The replaced envelopes are kept in `superseded`. All or nothing.
        """
        with self.database.transaction() as database:
            rows = self.database.rows(
                "evidence",
                "device_id = ? AND (sent_at IS NULL OR sequence >= ?) AND NOT (sequence = ? AND digest = ?)",
                (device_id, server.sequence, server.sequence, server.digest),
                order_by="sequence",
                select="device_id, sequence, digest, envelope",
            )
            database.table("superseded").insert_all([{**row, "superseded_at": at} for row in rows], ignore=True)
            for row in rows:
                database.table("evidence").delete_where("device_id = ? AND sequence = ?", (device_id, row["sequence"]))
            adopted = {"device_id": device_id, "sequence": server.sequence, "digest": server.digest, "adopted_at": at}
            database.table("adopted").insert(adopted, ignore=True)
            head = server
            for row in rows:
                bundle = decode(parse(row["envelope"]).payload_bytes, EvidenceBundle)
                entry = _insert(database, reseal(bundle, head))
                head = ChainHead(entry.sequence, entry.digest)
        return len(rows)

    def prune(self, device_id: str, sent_before: float) -> int:
        """Forget bundles the server took before that time, never the newest and never one it has not taken."""
        with self.database.transaction() as database:
            head, before = self.head(device_id).sequence, database.conn.total_changes
            database.table("evidence").delete_where(
                "sent_at < ? AND (device_id != ? OR sequence < ?)", (sent_before, device_id, head)
            )
            removed = database.conn.total_changes - before
            database.table("superseded").delete_where("superseded_at < ?", (sent_before,))
        self.database.vacuum()
        return removed

    def next_number(self, name: str, at_least: int) -> int:
        """A number larger than every one given before under `name`, and at least `at_least`."""
        with self.database.transaction() as database:
            last = self.database.get("counters", name)
            number = max(at_least, (last["value"] if last else 0) + 1)
            database.table("counters").insert({"name": name, "value": number}, replace=True)
        return number


def _insert(database: Tables, sealed: Sealed) -> EvidenceEntry:
    bundle, document = sealed.bundle, sealed.envelope.to_bytes()
    counts = Counter(result.verdict.value for result in bundle.results)
    database.table("evidence").insert(
        {
            "device_id": bundle.device_id,
            "sequence": bundle.sequence,
            "digest": sealed.digest,
            "written_at": bundle.clock.wall,
            "cause": bundle.cause.value,
            "clock": bundle.clock.state.value,
            "size": len(document),
            "verdict_counts": json.dumps(counts, sort_keys=True),
            "envelope": document,
        }
    )
    return EvidenceEntry(
        sequence=bundle.sequence,
        written_at=bundle.clock.wall,
        cause=bundle.cause,
        digest=sealed.digest,
        size=len(document),
        clock=bundle.clock.state,
        verdict_counts=dict(counts),
    )


def _entry(row: dict[str, Any]) -> EvidenceEntry:
    return EvidenceEntry(
        sequence=row["sequence"],
        written_at=row["written_at"],
        cause=EvidenceCause(row["cause"]),
        digest=row["digest"],
        size=row["size"],
        clock=ClockState(row["clock"]),
        verdict_counts=json.loads(row["verdict_counts"]),
        sent_at=row["sent_at"],
    )
