"""The updater's memory and its public face: record, history, quarantine, and the status file made of them."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance_update import history, quarantine, record, status
from appliance_update.device import Device
from appliance_update.history import Event
from appliance_update.record import Record, State
from appliance_update.status import Term

PROGRESS_EVERY = 1.0
"""Seconds between two progress reports in the status file."""

REPEATABLE = (Event.CHECK_FAILED, Event.UPDATE_FAILED, Event.DOWNLOAD_STARTED)
"""Events that may truly happen again in one attempt; only twice in a row they are one."""


class Busy(RuntimeError):
    """Another updater is at work."""


@dataclass
class Store:
    """All that is kept, in `state` (survives) and `runtime` (does not)."""

    state: Path
    runtime: Path
    now: Callable[[], float] = time.time
    record: Record = field(default_factory=Record)
    device: Device | None = None
    running_version: str = ""
    watcher: Callable[[State, int, int], None] | None = None
    """Told of progress: state, bytes done, bytes in all (0, 0 at the start of a state)."""
    _reported: float = 0.0

    @property
    def record_path(self) -> Path:
        """The record."""
        return self.state / "state.json"

    @property
    def history_path(self) -> Path:
        """The update journal."""
        return self.state / "history.jsonl"

    @property
    def quarantine_path(self) -> Path:
        """Versions that failed here."""
        return self.state / "quarantine.json"

    @property
    def failed(self) -> Path:
        """Journals of failed boots."""
        return self.state / "failed"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one updater at a time. Raises `Busy`."""
        self.runtime.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.runtime / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy("Another updater is at work; `appliance-update status` shows what it does") from error
            self.load()
            yield
        finally:
            os.close(handle)

    def load(self) -> None:
        """Read the record; a damaged one is begun anew, and says so."""
        self.record, problem = record.load(self.record_path)
        self.record = dataclasses.replace(
            self.record, security_epoch=max(self.record.security_epoch, record.load_epoch(self.state))
        )
        if problem:
            self.record = dataclasses.replace(self.record, detail=problem)

    def save(self, **changes: Any) -> None:
        """Persist the record with these changes, then show them. Raises `OSError`."""
        self.record = dataclasses.replace(self.record, updated_at=self.now(), **changes)
        record.save(self.record_path, self.record)
        self.publish()
        if self.watcher and "state" in changes:
            self.watcher(self.record.state, 0, 0)

    def note(
        self,
        event: Event,
        *,
        version: str = "",
        reason: str = "",
        journal: str = "",
        from_version: str = "",
        again: bool = False,
    ) -> None:
        """Append to the history, once: a step repeated after a power cut is no second event (unless it is `again`)."""
        entries, _ = history.read(self.history_path)
        entry = history.Entry(
            self.now(),
            event.value,
            version,
            from_version or self.record.from_version,
            reason,
            self.record.order_id,
            journal,
        )
        for earlier in () if again else reversed(entries):
            if dataclasses.replace(earlier, at=0.0, journal="") == dataclasses.replace(entry, at=0.0, journal=""):
                return
            if earlier.event == Event.DOWNLOAD_STARTED or event in REPEATABLE:
                break
        history.append(self.history_path, entry)

    def contact(self, *, verified: bool = False) -> None:
        """Note that a rehearsal succeeded, or that metadata was fetched and `verified`. Best effort.

        The lifeline sleeps on for days after either, and for weeks after the second (docs/lifeline.md): a rehearsal
        needs no uplink, so it cannot see that this system asks at a wrong address.
        """
        for name in ("last-contact", "last-metadata") if verified else ("last-contact",):
            with contextlib.suppress(OSError):
                (self.state / name).touch()

    def answered(self, order_id: str) -> bool:
        """Whether the history holds the end of an order."""
        entries, _ = history.read(self.history_path)
        return any(entry.order_id == order_id and entry.event in history.FINAL for entry in entries)

    def put_away(self, version: str, reason: str, *, attempt: str | None = None, final: bool = False) -> None:
        """Quarantine a version: one failure an attempt (the present one); `final`: for good."""
        attempt = self.record.attempt if attempt is None else attempt
        quarantine.add(self.quarantine_path, version, reason, self._at_least(), attempt=attempt, final=final)

    def put_away_versions(self) -> dict[str, str]:
        """Versions that are quarantined now, with reason and term."""
        held = quarantine.held(self.quarantine_path, self._at_least())
        return {version: failure.sentence() for version, failure in held.items()}

    def _at_least(self) -> float:
        """The time, which cannot be before what was signed last."""
        return max(self.now(), self.record.time_floor)

    def publish(self, progress: status.Bytes | None = None) -> None:
        """Write status.json. Raises `OSError`."""
        status.write(self.runtime / "status.json", self.status(progress))

    def status(self, progress: status.Bytes | None = None) -> status.Status:
        """What status.json says now."""
        kept = self.record
        return status.Status(
            state=kept.state.value,
            running_version=self.running_version,
            candidate_version=kept.candidate.version if kept.candidate else "",
            detail=kept.detail,
            progress=progress,
            slots=status.slots_of(self.device),
            updated_at=kept.updated_at,
            last_check_at=kept.last_check_at,
            last_check_error=kept.last_check_error,
            order_id=kept.order_id,
            waiting_orders=kept.waiting_orders,
            postponed_until=kept.postponed_until or None,
            security_epoch=kept.security_epoch,
            snapshots=self.snapshots(),
            quarantine=self._quarantine(),
        )

    def snapshots(self) -> tuple[str, ...]:
        """Versions whose databases are kept as they were left."""
        return tuple(sorted(path.parent.name for path in (self.state / "snapshots").glob("*/index.json")))

    def _quarantine(self) -> dict[str, Term]:
        held = quarantine.held(self.quarantine_path, self._at_least())
        return {version: Term(failure.reason, failure.until()) for version, failure in held.items()}

    def progress(self, done: int, total: int) -> None:
        """Report bytes; the status file is rewritten once a second at most."""
        if self.watcher:
            self.watcher(self.record.state, done, total)
        if time.monotonic() - self._reported >= PROGRESS_EVERY:
            self._reported = time.monotonic()
            self.publish(status.Bytes(done, total))
