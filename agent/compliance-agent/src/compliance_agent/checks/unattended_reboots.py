"""The box restarts when it means to, and only then."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from compliance_agent.checks import _journal, _updater
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, count, some
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

SHUTDOWN = "98268866d1d54a499c4e98921d93bc40"
"""SD_MESSAGE_SHUTDOWN: logind announces it."""
JOURNAL_STOPPED = "d93fb3c9c24d451a97cea615ce59c00b"
"""SD_MESSAGE_JOURNAL_STOP."""
ENDING_TARGETS = (
    "shutdown.target",
    "reboot.target",
    "poweroff.target",
    "halt.target",
    "kexec.target",
    "soft-reboot.target",
)
TRIAL_BEGINS = frozenset({"installed", "trial_started"})
LONGEST_TRIAL = 7200.0
"""Seconds within which a trial ends; restarts during one are the updater's doing."""
SLACK = 900.0
"""Seconds around a trial: the clock may not be set yet when a boot begins."""
MOST_BOOTS = 200


@dataclass(frozen=True)
class Boot:
    """One boot by its entries in the journal. Times are seconds since the epoch."""

    id: str
    first: float
    last: float
    orderly: bool
    """Whether it ended as a shutdown does, and not by a power cut, a crash or a reset."""


class UnattendedReboots(Check):
    """Holds the journal's boots against the updater's history."""

    id = "unattended-reboots"
    title = "No unexpected restarts"
    reads = "The journal's boots and how each ended, against the updater's history and status"
    citations = (
        hipaa("164.308(a)(6)(ii)", PARTIAL),
        hipaa("164.308(a)(1)(ii)(D)", PARTIAL),
        soc2("CC7.2", PARTIAL),
        soc2("A1.2", PARTIAL),
    )
    does_not_prove = (
        "Why the box went down: a power cut, a crash and a pulled plug look alike. A restart that somebody asked for "
        "counts as expected, whoever it was."
    )
    remedy = (
        "Ask on site whether the power failed. If it did not, and it happens again, "
        "the box or its power supply is at fault."
    )

    def run(self, host: Host) -> Finding:
        """A release that waits too long for its restart, then ends of boots that nothing explains."""
        inputs = Inputs(host)
        settings = host.config.checks
        now = host.clock.read().wall
        status = _updater.status_if_there(inputs)
        history = _updater.history(inputs)
        with _journal.opened(inputs) as journal:
            boots = _boots(journal, now - settings.reboot_window_days * 86400)
        current = host.clock.read().boot_id.replace("-", "").lower()
        if current not in {boot.id for boot in boots}:
            raise CheckError("the journal holds nothing of this boot", _journal.DIRECTORY)
        trials = _trials(history)
        ended = [boot for boot in boots if boot.id != current]
        unclean = [boot for boot in ended if not boot.orderly]
        unexplained = [boot for boot in unclean if not any(start <= boot.last <= end for start, end in trials)]
        facts = {
            "restarts": len(ended),
            "without a shutdown": len(unclean),
            "of these during an update": len(unclean) - len(unexplained),
            "days looked at": f"{settings.reboot_window_days:g}",
        }
        if unexplained:
            when = some([_day(boot.last) for boot in unexplained], 3)
            return inputs.failed(
                f"The box went down {count(len(unexplained), 'time')} without a shutdown: {when} (UTC).", facts
            )
        waiting = _waiting(status, history, now)
        if waiting > settings.update_pending_max_days:
            return inputs.failed(f"A new release has waited {waiting:.0f} days for the restart that starts it.", facts)
        return inputs.passed(
            f"{count(len(ended), 'restart')} in {settings.reboot_window_days:g} days, none unexpected.", facts
        )


def _boots(journal: _journal.Journal, since: float) -> list[Boot]:
    """The boots that ended after `since`, oldest first."""
    found = []
    for boot in journal.boots():
        first, last = journal.first({"_BOOT_ID": [boot]}), journal.last({"_BOOT_ID": [boot]})
        if first is None or last is None or last.at < since:
            continue
        end = journal.last(
            {"_BOOT_ID": [boot], "MESSAGE_ID": [SHUTDOWN, JOURNAL_STOPPED]},
            {"_BOOT_ID": [boot], "UNIT": ENDING_TARGETS},
        )
        found.append(Boot(boot, first.at, last.at, end is not None))
        if len(found) > MOST_BOOTS:
            raise CheckError(f"the journal shows more than {MOST_BOOTS} boots: the box restarts over and over")
    return sorted(found, key=lambda boot: boot.first)


def _trials(history: list[_updater.Event]) -> list[tuple[float, float]]:
    """The spans in which the updater restarts the box: from an installation to what became of it."""
    spans = []
    for number, event in enumerate(history):
        if event.event in TRIAL_BEGINS:
            ends = [later.at for later in history[number + 1 :] if later.event in _updater.OUTCOMES]
            end = min(ends[0] if ends else event.at + LONGEST_TRIAL, event.at + LONGEST_TRIAL)
            spans.append((event.at - SLACK, end + SLACK))
    return spans


def _waiting(status: _updater.Status | None, history: list[_updater.Event], now: float) -> float:
    """How long an installed release has waited for its restart, in days; 0 when none does."""
    installed = [event.at for event in history if event.event == "installed"]
    if status is None or status.state != "armed" or not installed:
        return 0.0
    return (now - installed[-1]) / 86400


def _day(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%d %B %H:%M")
