"""What the appliance updater leaves in its files: its status, and the history of every update.

Times are read as seconds since the epoch and as ISO 8601. Unknown events and fields are
skipped, so that a newer updater does not silence these checks.
"""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import dataclass
from typing import Any

from compliance_agent.checks._inputs import Inputs
from compliance_agent.errors import CheckError

MAX_HISTORY = 8 << 20
OUTCOMES = frozenset({"committed", "rolled_back", "quarantined"})
"""Events that end an update."""
REWRITING = frozenset({"downloading", "verifying", "staging"})
"""States in which the standby slot may rightly be empty or half written."""


@dataclass(frozen=True)
class Status:
    """The fields of the status file that checks look at. Times are seconds since the epoch, None when not told."""

    state: str
    running_version: str
    candidate_version: str
    updated_at: float | None
    last_check_at: float | None
    """When the updater last tried to reach its repository; `last_check_error` is empty when it did."""
    last_check_error: str
    last_success_at: float | None = None
    """When it last did; None where the updater does not tell."""


@dataclass(frozen=True)
class Event:
    """One line of the history. `at` is seconds since the epoch."""

    at: float
    event: str
    version: str
    from_version: str
    reason: str


def status(inputs: Inputs) -> Status:
    """The updater's status. Raises `CheckError` when it is missing or cannot be understood."""
    path = inputs.host.config.paths.update_status
    return _status(inputs.text(path), path)


def status_if_there(inputs: Inputs) -> Status | None:
    """The updater's status; None when the updater has not written one yet. Raises `CheckError` when it is garbage."""
    path = inputs.host.config.paths.update_status
    text = inputs.text_if_there(path)
    return None if text is None else _status(text, path)


def history(inputs: Inputs) -> list[Event]:
    """Every event on record, oldest first; none when there was never an update.

    A power cut tears a line, and the updater goes on below it: torn lines are skipped. Raises `CheckError` when
    nothing in the file can be read.
    """
    path = inputs.host.config.paths.update_history
    text = inputs.text_if_there(path, MAX_HISTORY) or ""
    lines = [line for line in text.split("\n") if line.strip()]
    events = []
    torn = 0
    for line in lines:
        try:
            event = _event(_object(line, path))
        except CheckError:
            torn += 1
            continue
        if event is not None:
            events.append(event)
    if lines and torn == len(lines):
        raise CheckError(f"{path} holds no event that can be read", path)
    return sorted(events, key=lambda event: event.at)


def moment(value: Any) -> float | None:
    """A time as seconds since the epoch; None for what is not one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str) and value:
        try:
            read = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
        return (read if read.tzinfo else read.replace(tzinfo=datetime.UTC)).timestamp()
    return None


def _status(text: str, path: str) -> Status:
    fields = _object(text, path)
    state = _string(fields, "state")
    if not state:
        raise CheckError(f"{path} does not say in which state the updater is", path)
    return Status(
        state=state,
        running_version=_string(fields, "running_version"),
        candidate_version=_string(fields, "candidate_version"),
        updated_at=moment(fields.get("updated_at")),
        last_check_at=moment(fields.get("last_check_at")),
        last_check_error=_string(fields, "last_check_error"),
        last_success_at=moment(fields.get("last_success_at")),
    )


def _event(fields: dict[str, Any]) -> Event | None:
    at = moment(fields.get("at"))
    if at is None or not _string(fields, "event"):
        return None
    texts = (_string(fields, key) for key in ("event", "version", "from_version", "reason"))
    return Event(at, *texts)


def _object(text: str, source: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckError(f"{source} is not JSON: {error}", source) from error
    if not isinstance(value, dict):
        raise CheckError(f"{source} is not a JSON object", source)
    return value


def _string(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""
