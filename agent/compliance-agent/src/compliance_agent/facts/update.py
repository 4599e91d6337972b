"""What the appliance updater says about itself: its status file and its journal.

The updater shares no code with the agent, so these files are the whole interface. They are read tolerantly: unknown
fields are ignored, and a file that cannot be read says so in place of pretending to be idle.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from appliance_protocol.device_api import UpdateStatus
from appliance_protocol.wire import WireError, decode

MAX_STATUS = 256 << 10
MAX_HISTORY_TAIL = 1 << 20
"""Only the end of the journal is read: it is append-only, and what is asked for happened lately."""


@dataclass(frozen=True)
class UpdaterSlot:
    """One slot as the updater sees it."""

    version: str | None = None
    state: str = "unknown"
    blessed: bool | None = None


@dataclass(frozen=True)
class UpdaterStatus:
    """The status file."""

    state: str
    running_version: str | None = None
    candidate_version: str | None = None
    detail: str | None = None
    slots: dict[str, UpdaterSlot] = field(default_factory=dict)
    last_check_at: float | str | None = None
    last_check_error: str | None = None
    order_id: str | None = None
    waiting_orders: tuple[str, ...] = ()
    """Orders whose turn comes when the present update has ended."""
    format: int = 1


@dataclass(frozen=True)
class UpdaterEvent:
    """One line of the journal."""

    event: str
    at: float | str | None = None
    version: str | None = None
    from_version: str | None = None
    reason: str | None = None
    order_id: str | None = None


class UpdaterUnreadable(RuntimeError):
    """The updater's status cannot be told; the message names the file and the reason."""


def read_status(path: Path) -> UpdaterStatus:
    """The updater's status file. Raises `UpdaterUnreadable`."""
    try:
        with path.open("rb") as file:
            document = file.read(MAX_STATUS + 1)
        return decode(document, UpdaterStatus, limit=MAX_STATUS)
    except (OSError, WireError) as error:
        raise UpdaterUnreadable(f"{path}: {error}") from error


def read_history(path: Path) -> list[UpdaterEvent]:
    """The end of the updater's journal, oldest first; a torn or foreign line is skipped, a missing file is empty."""
    events = []
    for line in _tail(path.with_name(f"{path.name}.1")) + _tail(path):  # turned over once it is large
        try:
            events.append(decode(line, UpdaterEvent, limit=MAX_STATUS))
        except WireError:
            continue
    return events


def _tail(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MAX_HISTORY_TAIL))
            return file.read().split(b"\n")
    except OSError:
        return []


def update_status(path: Path) -> UpdateStatus:
    """The status as a check-in carries it; `unknown` with the reason when it cannot be read."""
    try:
        status = read_status(path)
    except UpdaterUnreadable as error:
        return UpdateStatus(state="unknown", detail=str(error)[:500])
    return UpdateStatus(
        state=status.state[:40],
        version=(status.candidate_version or "")[:80],
        detail=(status.detail or "")[:500],
        previous_version=_standby(status)[:80],
    )


def _standby(status: UpdaterStatus) -> str:
    return next((slot.version or "" for slot in status.slots.values() if slot.state == "standby"), "")
