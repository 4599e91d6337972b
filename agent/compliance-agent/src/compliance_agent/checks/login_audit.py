"""Every login is on record, and whoever became root was somebody who may."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from compliance_agent.checks import _journal
from compliance_agent.checks._citations import HUMAN, PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, as_kind, count, some
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
SESSION = "org.freedesktop.login1.Session"
SESSION_START = "8d45620c1a4348dbb17410da57c60c66"
"""SD_MESSAGE_SESSION_START of sd-messages(3)."""
PROGRAMS = ("sudo", "su", "login", "sshd", "sshd-session", "doas", "run0", "cockpit-session")
WINDOW = 86400.0
"""How far back logins are counted, in seconds."""
OPENED = re.compile(r"session opened for user (?P<user>[^\s(]+)(?:\(uid=\d+\))? by (?P<by>[^\s(]*)\(uid=(?P<uid>\d+)\)")
FAILED = re.compile(
    r"authentication failure|Failed password|Invalid user|FAILED LOGIN|incorrect password attempt", re.I
)


@dataclass
class Record:
    """What the journal says of one day's logins."""

    starts: int = 0
    root: Counter[str] = field(default_factory=Counter)
    """Who became root, and how often; `root itself` where it was a login as root."""
    failures: int = 0


class LoginAudit(Check):
    """Two records are held against each other: logind's open sessions, and the journal's entries about logins."""

    id = "login-audit"
    title = "Logins are recorded, and root's are accounted for"
    reads = "The journal's entries about logins of the last 24 hours, and logind's open sessions over D-Bus"
    citations = (
        hipaa("164.308(a)(5)(ii)(C)", PARTIAL),
        hipaa("164.308(a)(1)(ii)(D)", HUMAN),
        hipaa("164.312(b)", PARTIAL),
        soc2("CC7.2", PARTIAL),
        soc2("CC7.3", HUMAN),
    )
    does_not_prove = (
        "That a person has reviewed the record, that the person behind an account is who they say, or anything about "
        "logins to the local portal and to the clinic's computers. Root can alter the journal."
    )
    remedy = (
        "Ask the named person what they did. If nobody knows of it, treat it as an intrusion and call the provider."
    )

    def run(self, host: Host) -> Finding:
        """Open sessions that are on no record, then root logins by whom, then failures."""
        inputs = Inputs(host)
        settings = host.config.checks
        now = host.clock.read().wall
        with _journal.opened(inputs) as journal:
            if journal.last({"_BOOT_ID": [_boot(inputs)]}) is None:
                raise CheckError(
                    "the journal holds nothing of this boot: logins are not being recorded", _journal.DIRECTORY
                )
            record = _record(
                journal.since(now - WINDOW, {"MESSAGE_ID": [SESSION_START]}, {"SYSLOG_IDENTIFIER": PROGRAMS})
            )
            unrecorded = _unrecorded(inputs, journal)
        strangers = sorted(name for name in record.root if name not in settings.administrators)
        facts = {
            "logins in 24 h": record.starts,
            "became root": ", ".join(f"{name} ({times})" for name, times in sorted(record.root.items())) or "nobody",
            "failed logins in 24 h": record.failures,
        }
        if unrecorded:
            return inputs.failed(f"Somebody is logged in without a record of it: {some(unrecorded)}.", facts)
        if strangers:
            return inputs.failed(
                f"Root's rights were used in the last 24 hours by {some(strangers)}, who may not.", facts
            )
        if record.failures > settings.max_failed_logins:
            return inputs.failed(
                f"{record.failures} logins failed in the last 24 hours: somebody may be guessing.", facts
            )
        return inputs.passed(
            f"Logins are recorded: {count(record.starts, 'login')}, {count(record.root.total(), 'time')} as root, "
            f"{record.failures} failed in the last 24 hours.",
            facts,
        )


def _record(entries: list[_journal.Entry]) -> Record:
    record = Record()
    for entry in entries:
        message = entry.get("MESSAGE")
        opened = OPENED.search(message)
        if entry.get("MESSAGE_ID") == SESSION_START:
            record.starts += 1
        elif opened is not None and opened["user"] == "root":
            record.root[_opener(opened["by"], opened["uid"])] += 1
        elif FAILED.search(message):
            record.failures += 1
    return record


def _opener(name: str, uid: str) -> str:
    if uid == "0":
        return "root itself"
    return name or f"user id {uid}"


def _unrecorded(inputs: Inputs, journal: _journal.Journal) -> list[str]:
    """Sessions of people that are open now and of which the journal of this boot has no start."""
    source = f"D-Bus {LOGIND[2]}.ListSessions"
    found = []
    for session in inputs.call(*LOGIND, "ListSessions"):
        fields = as_kind(session, (list, tuple), source)
        if len(fields) < 5 or not all(isinstance(fields[index], str) for index in (0, 2, 4)):
            raise CheckError(f"{source} answered something that is no list of sessions", source)
        name, user, path = fields[0], fields[2], fields[4]
        kind = inputs.property(LOGIND[0], path, SESSION, "Class", str)
        # Only people count: a greeter, a user's manager and its helpers have sessions too.
        if not kind.startswith("user"):
            continue
        if journal.last({"MESSAGE_ID": [SESSION_START], "SESSION_ID": [name], "_BOOT_ID": [_boot(inputs)]}) is None:
            found.append(f"{user} (session {name})")
    return found


def _boot(inputs: Inputs) -> str:
    return inputs.host.clock.read().boot_id.replace("-", "").lower()
