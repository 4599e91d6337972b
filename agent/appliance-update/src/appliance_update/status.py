"""/run/appliance-update/status.json: what the updater is doing, readable by everybody when all else is dead."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from appliance_update.device import Device
from appliance_update.files import Unreadable, decode, read_limited, write_json

LIMIT = 64 * 1024


@dataclass(frozen=True)
class SlotStatus:
    """One slot. `state` is booted, standby, empty or unknown; `blessed` is None when nothing tells."""

    version: str = ""
    state: str = "unknown"
    blessed: bool | None = None


@dataclass(frozen=True)
class Bytes:
    """Progress of the present step."""

    bytes: int
    total: int


@dataclass(frozen=True)
class Term:
    """Why a version is put away, and until when it is (None: for good)."""

    reason: str
    until: float | None = None


@dataclass(frozen=True)
class Status:
    """The whole document. Times are seconds since the epoch (UTC)."""

    state: str
    running_version: str = ""
    candidate_version: str = ""
    detail: str = ""
    progress: Bytes | None = None
    slots: dict[str, SlotStatus] = field(default_factory=dict)
    updated_at: float = 0.0
    last_check_at: float | None = None
    last_check_error: str = ""
    order_id: str = ""
    waiting_orders: tuple[str, ...] = ()
    """Orders whose turn comes when the present update has ended."""
    postponed_until: float | None = None
    security_epoch: int = 0
    snapshots: tuple[str, ...] = ()
    """Versions whose databases are kept as they left them."""
    quarantine: dict[str, Term] = field(default_factory=dict)
    format: int = 1


def slots_of(device: Device | None) -> dict[str, SlotStatus]:
    """Both slots; both unknown when the device could not be inspected."""
    if device is None:
        return {"a": SlotStatus(), "b": SlotStatus()}
    return {slot.name: SlotStatus(slot.version, slot.state.value, slot.blessed) for slot in device.slots}


def write(path: Path, status: Status) -> None:
    """Replace the document. Raises `OSError`."""
    write_json(path, status)


def read(path: Path) -> Status:
    """Read the document. Raises `OSError` or `Unreadable`."""
    return decode(read_limited(path, LIMIT), Status, str(path))


__all__ = ["Bytes", "SlotStatus", "Status", "Unreadable", "read", "slots_of", "write"]
