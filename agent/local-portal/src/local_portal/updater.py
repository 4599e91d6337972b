"""What the appliance updater says in its files. They are read forward-tolerantly and never trusted."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from appliance_protocol.wire import prepare
from local_portal.backends import Reading
from local_portal.moments import parse

MAX_STATUS = 256 * 1024
MAX_HISTORY = 256 * 1024
Moment = float | str | None


class UpdateState(enum.StrEnum):
    """The updater's states; `UNREADABLE` stands for one that this version of the portal does not know."""

    IDLE = "idle"
    CHECKING = "checking"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    STAGING = "staging"
    ARMED = "armed"
    TRIAL = "trial"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    QUARANTINED = "quarantined"
    UNREADABLE = "unreadable"

    @property
    def busy(self) -> bool:
        """Whether an update is under way."""
        return self in _BUSY

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way and nothing went wrong."""
        return self in (UpdateState.IDLE, UpdateState.COMMITTED)


_BUSY = frozenset({
    UpdateState.CHECKING, UpdateState.DOWNLOADING, UpdateState.VERIFYING, UpdateState.STAGING, UpdateState.ARMED,
    UpdateState.TRIAL,
})


@dataclass(frozen=True)
class Progress:
    """How far a download is, in bytes."""

    bytes: float | None = None
    total: float | None = None

    @property
    def percent(self) -> int | None:
        """0 to 100; None where it cannot be told."""
        if self.bytes is None or not self.total or self.total <= 0 or self.bytes < 0:
            return None
        return int(min(100.0, 100.0 * self.bytes / self.total))


@dataclass(frozen=True)
class Slot:
    """One of the two system images."""

    version: str | None = None
    state: str | None = "unknown"
    blessed: bool | None = None


@dataclass(frozen=True)
class UpdaterStatus:
    """`status.json`. Times are seconds since the epoch, or ISO 8601."""

    state: str = "unknown"
    running_version: str | None = None
    candidate_version: str | None = None
    detail: str | None = None
    progress: Progress | None = None
    slots: dict[str, Slot] = field(default_factory=dict)
    updated_at: Moment = None
    last_check_at: Moment = None
    last_check_error: str | None = None
    order_id: str | None = None

    @property
    def phase(self) -> UpdateState:
        """The state as one we know."""
        try:
            return UpdateState(self.state)
        except ValueError:
            return UpdateState.UNREADABLE

    @property
    def written_at(self) -> float | None:
        """When the updater last wrote this."""
        return parse(self.updated_at)

    @property
    def checked_at(self) -> float | None:
        """When it last asked for a new release."""
        return parse(self.last_check_at)


@dataclass(frozen=True)
class UpdateEvent:
    """One line of `history.jsonl`."""

    at: Moment = None
    event: str = "unknown"
    version: str | None = None
    from_version: str | None = None
    reason: str | None = None

    @property
    def happened_at(self) -> float | None:
        """When it happened, in seconds since the epoch."""
        return parse(self.at)


# Pages are made in several threads, see `prepare`.
prepare(UpdaterStatus, UpdateEvent)


@dataclass(frozen=True)
class UpdaterFiles:
    """Where the updater leaves them."""

    status_file: Path
    history_file: Path

    def status(self) -> Reading[UpdaterStatus]:
        """The current status, or why it is not known."""
        try:
            with self.status_file.open("rb") as file:
                raw = file.read(MAX_STATUS + 1)
        except FileNotFoundError:
            return Reading(None, "The updater has not written its status since this start.")
        except OSError as error:
            return Reading(None, f"The updater's status cannot be read ({error.strerror}).")
        try:
            if len(raw) > MAX_STATUS:
                raise ValueError("too large")
            return Reading(msgspec.json.decode(raw, type=UpdaterStatus))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return Reading(None, "The updater's status file is damaged.")

    def history(self, limit: int = 50) -> Reading[list[UpdateEvent]]:
        """The newest events, newest first. A line that cannot be read becomes an event that says so."""
        try:
            with self.history_file.open("rb") as file:
                length = file.seek(0, os.SEEK_END)
                file.seek(max(0, length - MAX_HISTORY))
                lines = file.read(MAX_HISTORY).split(b"\n")
        except FileNotFoundError:
            return Reading([])
        except OSError as error:
            return Reading(None, f"The update history cannot be read ({error.strerror}).")
        whole = lines[1:] if length > MAX_HISTORY else lines
        return Reading([_event(line) for line in reversed(whole) if line.strip()][:limit])


def _event(line: bytes) -> UpdateEvent:
    try:
        return msgspec.json.decode(line, type=UpdateEvent)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return UpdateEvent(event="unreadable", reason="This line of the history is damaged.")
