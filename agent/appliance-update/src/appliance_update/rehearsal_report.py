"""What a rehearsal left behind: /run/appliance-update/rehearsal.json, gone with the boot it was about."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from appliance_update.config import Config
from appliance_update.files import Unreadable, decode, read_limited, write_json, write_whole
from appliance_update.history import Event
from appliance_update.host import Host
from appliance_update.store import Store

FILE = "rehearsal.json"
LIMIT = 256 * 1024
TRIAL_FILE = "trial"
"""In /run/appliance-update from early boot until the system on trial is committed."""
BROKEN_FILE = "updater-broken"
"""In /var/lib/appliance-update while the committed system cannot update itself: the lifeline engages at once."""

UPDATER = "updater"
UNIT = "unit"
SURROUNDINGS = "surroundings"
"""Whose fault a failure is: this system's updater, a rehearsal unit, or a disk that is full or failing."""


@dataclass(frozen=True)
class Stage:
    """One step that went well."""

    name: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """How a rehearsal ended. `fault` is empty when it passed, else one of the three words above."""

    passed: bool
    version: str
    boot_id: str
    at: float
    seconds: float
    stages: tuple[Stage, ...] = ()
    reason: str = ""
    fault: str = ""
    format: int = 1


def keep(config: Config, report: Report) -> None:
    """Replace the report. Raises `OSError`."""
    write_json(Path(config.paths.runtime) / FILE, report)


def of_this_boot(config: Config, host: Host) -> Report | None:
    """The last report, if it is this boot's; None when there is none or it cannot be read."""
    try:
        report = decode(read_limited(Path(config.paths.runtime) / FILE, LIMIT), Report, FILE)
    except (OSError, Unreadable):
        return None
    return report if (report.boot_id, report.version) == (host.boot_id(), host.image_version) else None


def conclude(config: Config, report: Report) -> None:
    """Keep the report and draw the consequences. Raises `OSError`.

    Success is contact with a working updater, and ends what an earlier failure began. Failure is the gate's business
    while the system is on trial. Later it goes into the history, and when the updater itself is at fault the lifeline
    is called: it can help neither a full disk nor an agent that the updater could still replace.
    """
    keep(config, report)
    state, runtime = Path(config.paths.state), Path(config.paths.runtime)
    store = Store(state, runtime)
    if report.passed:
        (state / BROKEN_FILE).unlink(missing_ok=True)
        store.contact()
        return
    if (runtime / TRIAL_FILE).exists():
        return
    if report.fault == UPDATER:
        line = f"{report.version}: the rehearsal failed: {report.reason}".replace("\n", " | ")
        write_whole(state / BROKEN_FILE, f"{line[:1000]}\n".encode())
    with contextlib.suppress(OSError):
        store.load()
        store.note(Event.REHEARSAL_FAILED, version=report.version, reason=report.reason)
