"""The one question a clinic asks: are we all right, and since when? And if not: what to do next.

All right is only what every part has shown to be so just now. Whatever is missing, stale or unreadable is said, and
the answer is then "not known", never "all right".
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from appliance_protocol.clock import ClockState
from appliance_protocol.local_models import AgentStatus, ScannerStatus, ScorePoint
from appliance_protocol.verdict import CheckResult, Verdict
from local_portal.backends import Reading
from local_portal.moments import DAY, HOUR, duration, plural
from local_portal.updater import UpdaterStatus, UpdateState

CHECKS_STALE = 2 * HOUR
SCAN_STALE = 2 * DAY
UPDATER_STALE = 2 * DAY
UPDATE_CHECK_STALE = 7 * DAY
UPLINK_WORTH_SAYING = 1 * DAY
EVIDENCE_WAITING = 7 * DAY
FUTURE = 10 * 60.0
"""How far ahead of the clock a time may be, in seconds, before it is not believed."""


class Level(enum.StrEnum):
    """How a thing stands, worst last."""

    RIGHT = "right"
    NOTE = "note"
    UNKNOWN = "unknown"
    ATTENTION = "attention"


_ORDER = (Level.RIGHT, Level.NOTE, Level.UNKNOWN, Level.ATTENTION)


@dataclass(frozen=True)
class Step:
    """One thing to know or do, and the page that shows more."""

    level: Level
    title: str
    detail: str
    href: str


@dataclass(frozen=True)
class Judgement:
    """The answer. `since` is seconds since the epoch; None when it is not known."""

    level: Level
    headline: str
    since: float | None
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Facts:
    """Everything the answer stands on; `now` is seconds since the epoch."""

    now: float
    agent: Reading[AgentStatus]
    checks: Reading[list[CheckResult]]
    history: Reading[list[ScorePoint]]
    scanner: Reading[ScannerStatus]
    updater: Reading[UpdaterStatus]


def judge(facts: Facts) -> Judgement:
    """Weigh everything; the worst part decides."""
    found = [*_agent(facts), *_checks(facts), *_scanner(facts), *_updater(facts)]
    steps = tuple(sorted(found, key=lambda step: -_ORDER.index(step.level)))
    worst = max((step.level for step in steps), key=_ORDER.index, default=Level.RIGHT)
    status = facts.agent.value
    since = status.conforming_since if status else None
    if worst in (Level.RIGHT, Level.NOTE):
        if since is None or since > facts.now + FUTURE:
            missing = Step(Level.UNKNOWN, "The agent does not say since when all checks have passed",
                           "Run the checks again; if this stays, ask your provider.", "/compliance")
            return Judgement(Level.UNKNOWN, _UNKNOWN, None, (missing, *steps))
        return Judgement(Level.RIGHT, "You are all right", since, steps)
    if worst is Level.UNKNOWN:
        return Judgement(worst, _UNKNOWN, None, steps)
    count = sum(step.level is Level.ATTENTION for step in steps)
    headline = f"{count} things need attention" if count > 1 else "One thing needs attention"
    return Judgement(worst, headline, _not_full_since(facts), steps)


_UNKNOWN = "We cannot say that you are all right"


def _not_full_since(facts: Facts) -> float | None:
    """Since when the score has not been full, as far back as the history goes; None when it is full now."""
    since = None
    for point in sorted(facts.history.value or [], key=lambda item: item.at, reverse=True):
        if point.conforming >= point.counted:
            break
        since = point.at
    return since


def _agent(facts: Facts) -> Iterator[Step]:
    status = facts.agent.value
    if status is None:
        yield Step(Level.UNKNOWN, "The compliance agent does not answer",
                   f"{facts.agent.problem} It restarts by itself; if this stays for ten minutes, call your provider.",
                   "/system")
        return
    for problem in status.problems:
        yield Step(Level.ATTENTION, "The compliance agent reports a problem", problem, "/system")
    if status.clock is ClockState.UNSYNCHRONISED:
        yield Step(Level.ATTENTION, "The appliance's clock is not synchronised",
                   "Times on these pages and in the evidence are marked as uncertain until it reaches a time server.",
                   "/system")
    elif status.clock is not ClockState.SYNCHRONISED:
        yield Step(Level.UNKNOWN, "Whether the clock is right is not known", "See the clock on the System page.",
                   "/system")
    yield from _uplink(status, facts.now)


def _uplink(status: AgentStatus, now: float) -> Iterator[Step]:
    if not status.enrolled:
        yield Step(Level.ATTENTION, "The appliance is not enrolled",
                   "Your provider does not receive its reports yet. Ask them for an enrolment code.", "/system")
    elif status.last_checkin_at is None or now - status.last_checkin_at > UPLINK_WORTH_SAYING:
        reached = "never been reached" if status.last_checkin_at is None else (
            f"not been reached for {duration(now - status.last_checkin_at)}")
        yield Step(Level.NOTE, f"Your provider has {reached}",
                   "The appliance goes on working and sends everything later. Check the internet connection.",
                   "/system")
    oldest = status.queue.oldest_at
    if status.queue.pending and oldest is not None and now - oldest > EVIDENCE_WAITING:
        yield Step(Level.NOTE, f"{plural(status.queue.pending, 'bundle')} of evidence wait to be sent",
                   f"The oldest has waited for {duration(now - oldest)}.", "/evidence")


def _checks(facts: Facts) -> Iterator[Step]:
    results, status = facts.checks.value, facts.agent.value
    if results is None:
        if status is not None:
            yield Step(Level.UNKNOWN, "The results of the checks cannot be read", facts.checks.problem, "/compliance")
        return
    if not any(result.verdict.counts for result in results):
        yield Step(Level.UNKNOWN, "No check has given a result yet", "Run the checks; it takes a few seconds.",
                   "/compliance")
    for result in results:
        yield from _check(result, facts.now)
    if status is None:
        return
    ran = status.checks_at
    if ran is None or facts.now - ran > CHECKS_STALE or ran > facts.now + FUTURE:
        age = "never run" if ran is None else (
            f"not run for {duration(facts.now - ran)}" if ran <= facts.now else "last run in the future, by this clock")
        yield Step(Level.UNKNOWN, f"The checks have {age}", "Run them now; if that does not help, call your provider.",
                   "/compliance")
    if status.score.conforming < status.score.counted and not any(_unmet(result, facts.now) for result in results):
        yield Step(Level.UNKNOWN, "The agent's score and its results disagree", "Run the checks again.", "/compliance")


def _unmet(result: CheckResult, now: float) -> bool:
    return result.verdict.counts and (not result.verdict.conforms or result.stale(now))


def _check(result: CheckResult, now: float) -> Iterator[Step]:
    href = f"/compliance/checks/{result.check_id}"
    if result.verdict is Verdict.FAIL:
        yield Step(Level.ATTENTION, f"Not met: {result.title}", result.remedy or result.reason, href)
    elif result.verdict in (Verdict.ERROR, Verdict.UNKNOWN):
        yield Step(Level.UNKNOWN, f"{result.title}: could not be checked", result.reason, href)
    elif result.verdict is Verdict.NOT_CHECKED:
        yield Step(Level.UNKNOWN, f"{result.title}: has not been checked", result.reason, href)
    elif result.verdict.counts and (result.stale(now) or result.checked_at > now + FUTURE):
        yield Step(Level.UNKNOWN, f"{result.title}: the result is out of date",
                   "It was right when it was checked, but that is too long ago to count.", href)


def _scanner(facts: Facts) -> Iterator[Step]:
    status = facts.scanner.value
    if status is None:
        yield Step(Level.UNKNOWN, "The network scanner does not answer",
                   f"{facts.scanner.problem} The list of devices cannot be shown.", "/system")
        return
    for problem in status.problems:
        yield Step(Level.ATTENTION, "The network scanner reports a problem", problem, "/system")
    last = status.last_scan_at
    if last is None:
        yield Step(Level.UNKNOWN, "The network has not been scanned yet",
                   "A first scan is running." if status.scanning else "Start a scan.", "/devices")
    elif facts.now - last > SCAN_STALE or last > facts.now + FUTURE:
        when = f"{duration(abs(facts.now - last))} {'ago' if last < facts.now else 'ahead of now'}"
        yield Step(Level.UNKNOWN, "The list of devices is out of date",
                   f"The last scan was {when}. Start a scan.", "/devices")


def _updater(facts: Facts) -> Iterator[Step]:
    status = facts.updater.value
    if status is None:
        yield Step(Level.UNKNOWN, "The state of updates is not known", facts.updater.problem, "/updates")
        return
    phase, detail = status.phase, status.detail or ""
    if phase is UpdateState.ROLLED_BACK:
        yield Step(Level.ATTENTION, f"Update {status.candidate_version or ''} was taken back".replace("  ", " "),
                   detail or "The appliance runs the previous version. Your provider should look at the reason.",
                   "/updates")
    elif phase is UpdateState.QUARANTINED:
        yield Step(Level.ATTENTION, f"Update {status.candidate_version or ''} is in quarantine".replace("  ", " "),
                   detail or "It failed here and is not tried again by itself.", "/updates")
    elif phase is UpdateState.UNREADABLE:
        yield Step(Level.UNKNOWN, "The updater is in a state this page does not know", status.state, "/updates")
    elif phase.busy and phase is not UpdateState.CHECKING:
        yield Step(Level.NOTE, f"Update {status.candidate_version or ''} is under way".replace("  ", " "),
                   "Please leave the appliance switched on.", "/updates")
    yield from _updater_age(status, facts.now)


def _updater_age(status: UpdaterStatus, now: float) -> Iterator[Step]:
    written, checked = status.written_at, status.checked_at
    if written is None or now - written > UPDATER_STALE or written > now + FUTURE:
        yield Step(Level.UNKNOWN, "The updater's status is out of date",
                   "It does not say when it was written." if written is None
                   else f"It was written {duration(abs(now - written))} {'ago' if written < now else 'ahead of now'}.",
                   "/updates")
    elif checked is not None and now - checked > UPDATE_CHECK_STALE:
        yield Step(Level.NOTE, f"No new release could be looked for in {duration(now - checked)}",
                   status.last_check_error or "Check the internet connection.", "/updates")
