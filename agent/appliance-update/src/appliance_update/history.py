"""The update journal: one JSON object a line, appended, never rewritten, on the state partition."""

from __future__ import annotations

import enum
import json
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from appliance_update import faults
from appliance_update.files import Unreadable, decode

MAX_LINE = 64 * 1024
KEEP = 4 * 1024 * 1024
"""Bytes after which the file is turned over once (history.jsonl.1)."""


class Event(enum.StrEnum):
    """What can happen."""

    CHECK_FAILED = "check_failed"
    DOWNLOAD_STARTED = "download_started"
    UPDATE_FAILED = "update_failed"
    INSTALLED = "installed"
    TRIAL_STARTED = "trial_started"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    QUARANTINED = "quarantined"
    POSTPONED = "postponed"
    OVERDUE = "overdue"
    RESTORED = "restored"
    SECOND_THOUGHTS = "second_thoughts"
    GATE_FAILED = "gate_failed"
    REHEARSAL_FAILED = "rehearsal_failed"
    REPAIRED = "repaired"
    RECOVERY = "recovery"
    REFUSED = "refused"


FINAL = (Event.COMMITTED, Event.ROLLED_BACK, Event.QUARANTINED, Event.REFUSED)
"""Events that answer an order."""


@dataclass(frozen=True)
class Entry:
    """One event. `event` is text so that the events of newer versions can be read; `at` is seconds since the epoch.

    `journal` names a file beside the history with the failed boot's journal.
    """

    at: float
    event: str
    version: str = ""
    from_version: str = ""
    reason: str = ""
    order_id: str = ""
    journal: str = ""
    format: int = 1


def append(path: Path, entry: Entry) -> None:
    """Add one event, durably. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > KEEP:
        path.replace(path.with_name(f"{path.name}.1"))
    line = json.dumps(msgspec.to_builtins(entry), sort_keys=True).encode()
    faults.point(f"history:{entry.event}")
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # a power cut in the middle of a line
        os.write(handle, (b"\n" if torn else b"") + line + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)
    faults.point(f"recorded:{entry.event}")


def read(path: Path) -> tuple[list[Entry], int]:
    """Every readable event, oldest first, and how many lines could not be read. Raises `OSError`."""
    found: list[Entry] = []
    damaged = 0
    for name in (path.with_name(f"{path.name}.1"), path):
        if not name.exists():
            continue
        for line in name.read_bytes().split(b"\n"):
            if not line.strip():
                continue
            try:
                if len(line) > MAX_LINE:
                    raise Unreadable("too long")
                found.append(decode(line, Entry, "event"))
            except Unreadable:
                damaged += 1
    return found, damaged
