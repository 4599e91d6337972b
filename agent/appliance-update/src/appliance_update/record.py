"""What the updater remembers over a power cut: one small file, replaced whole before each step."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from appliance_update.files import Unreadable, decode, read_limited, set_aside, write_json, write_whole
from appliance_update.release import Release

LIMIT = 1024 * 1024


class State(enum.StrEnum):
    """Where an update stands."""

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

    @property
    def settled(self) -> bool:
        """Whether no update is under way."""
        return self in (State.IDLE, State.COMMITTED, State.ROLLED_BACK, State.QUARANTINED)


@dataclass(frozen=True)
class Record:
    """The persisted state. Times are seconds since the epoch.

    `good_version` is the version that last proved itself here; `armed_boot` the boot in which the candidate was armed,
    `restarts` in how many boots we asked to reboot for it, the last one `restart_boot`; `time_floor` the latest time
    that verified metadata was signed at, `security_epoch` that of the version that last proved itself: no lower one is
    installed again.

    `attempt` names one installation, so that its failure is counted once. `order_id` is the order that the present
    update answers, `order_open` whether it still waits for its answer, `waiting_orders` those that come after it.
    `waited` are seconds that an update has waited for its window, `waited_at` when that was last counted (`waited_up`
    by the clock of the boot `waited_boot`), and `postponed_until` when it may go ahead (0.0: nothing is postponed).
    """

    format: int = 1
    state: State = State.IDLE
    candidate: Release | None = None
    from_version: str = ""
    good_version: str = ""
    order_id: str = ""
    detail: str = ""
    armed_boot: str = ""
    armed_at: float = 0.0
    restarts: int = 0
    restart_boot: str = ""
    time_floor: float = 0.0
    security_epoch: int = 0
    attempt: str = ""
    order_open: bool = False
    waiting_orders: tuple[str, ...] = ()
    waited: float = 0.0
    waited_at: float = 0.0
    waited_up: float = 0.0
    waited_boot: str = ""
    postponed_until: float = 0.0
    last_check_at: float | None = None
    last_check_error: str = ""
    updated_at: float = 0.0


EPOCH = "security-epoch"


def load_epoch(state: Path) -> int:
    """The security epoch that was committed, from a file of its own: losing the record must not lower it."""
    try:
        return int(read_limited(state / EPOCH, 32))
    except (OSError, Unreadable, ValueError):
        return 0


def save_epoch(state: Path, epoch: int) -> None:
    """Raise the security epoch; it never falls. Raises `OSError`."""
    if epoch > load_epoch(state):
        write_whole(state / EPOCH, f"{epoch}\n".encode())


ARMED = "armed.json"
"""The record as it was when a version was armed: the version on trial writes the record too, and may spoil it."""


def load(path: Path) -> tuple[Record, str]:
    """The record, and a sentence about what was wrong with it (empty when nothing was).

    An unreadable or missing record is taken up where a version was armed, if one is. Else it is begun anew: whatever it
    said, every step asserts its own conditions.
    """
    try:
        return decode(read_limited(path, LIMIT), Record, str(path)), ""
    except FileNotFoundError:
        return _armed(path) or Record(), ""
    except (Unreadable, OSError) as error:
        try:
            aside = f"; it was moved to {set_aside(path)}"
        except OSError:
            aside = ""
        return _armed(path) or Record(), f"The record of updates was unreadable ({str(error)[:200]}){aside}"


def _armed(path: Path) -> Record | None:
    try:
        return decode(read_limited(path.with_name(ARMED), LIMIT), Record, ARMED)
    except (Unreadable, OSError):
        return None


def save(path: Path, record: Record) -> None:
    """Replace the record, and what `load` falls back to. Raises `OSError`."""
    if record.state is State.ARMED:
        write_json(path.with_name(ARMED), record)
    write_json(path, record)
    if record.state.settled:
        path.with_name(ARMED).unlink(missing_ok=True)
