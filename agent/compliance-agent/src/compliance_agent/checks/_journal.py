"""The system's journal on disk, read through systemd's own library."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from systemd import journal

from compliance_agent.checks._inputs import Inputs
from compliance_agent.errors import CheckError

DIRECTORY = "/var/log/journal"
MOST_ENTRIES = 5000
"""Most entries one look takes in; more is itself a finding."""

Match = Mapping[str, Sequence[str]]
"""Fields that must all match, each one of several values."""


@dataclass(frozen=True)
class Entry:
    """One entry. `at` is seconds since the epoch, `boot` 32 hexadecimal digits."""

    at: float
    boot: str
    fields: Mapping[str, str]

    def get(self, name: str) -> str:
        """A field's text; empty when the entry has none."""
        return self.fields.get(name, "")


class Journal:
    """The journal below one root. Use `opened`."""

    def __init__(self, inputs: Inputs, reader: Any) -> None:
        self._inputs = inputs
        self._reader = reader

    def boots(self) -> set[str]:
        """The ids of the boots that have left an entry."""
        found = {_hex(boot) for boot in self._reader.query_unique("_BOOT_ID")}
        self._inputs.note(f"journalctl --directory={DIRECTORY} -F _BOOT_ID", "\n".join(sorted(found)))
        return found

    def first(self, *matches: Match) -> Entry | None:
        """The oldest entry that matches."""
        self._select(matches)
        self._reader.seek_head()
        return self._one(self._reader.get_next())

    def last(self, *matches: Match) -> Entry | None:
        """The newest entry that matches."""
        self._select(matches)
        self._reader.seek_tail()
        return self._one(self._reader.get_previous())

    def since(self, moment: float, *matches: Match) -> list[Entry]:
        """Entries that match, from `moment` (seconds since the epoch) on, oldest first, at most `MOST_ENTRIES`."""
        self._select(matches)
        self._reader.seek_realtime(max(moment, 0.0))
        found: list[Entry] = []
        while len(found) < MOST_ENTRIES:
            entry = self._one(self._reader.get_next())
            if entry is None:
                break
            found.append(entry)
        return found

    def _select(self, matches: Sequence[Match]) -> None:
        self._reader.flush_matches()
        for number, match in enumerate(matches):
            if number:
                self._reader.add_disjunction()
            for name, values in match.items():
                for value in values:
                    self._reader.add_match(f"{name}={value}")

    def _one(self, fields: Mapping[str, Any]) -> Entry | None:
        if not fields:
            return None
        shown = {name: _text(value) for name, value in fields.items() if name.isupper() and not name.startswith("__")}
        entry = Entry(fields["__REALTIME_TIMESTAMP"].timestamp(), _hex(fields.get("_BOOT_ID", "")), shown)
        self._inputs.note(f"journal in {DIRECTORY}", f"{entry.at} {entry.boot} {entry.get('MESSAGE')}")
        return entry


@contextlib.contextmanager
def opened(inputs: Inputs) -> Iterator[Journal]:
    """The persistent journal, open. Raises `CheckError` when there is none, or when no entry of it can be read."""
    path = inputs.host.path(DIRECTORY)
    if not path.is_dir():
        raise CheckError(f"{DIRECTORY} is not there: nothing is recorded over a restart", DIRECTORY)
    try:
        with journal.Reader(path=str(path)) as reader:
            opened_journal = Journal(inputs, reader)
            if opened_journal.last() is None:
                raise CheckError(f"{DIRECTORY} holds no entry that the agent may read", DIRECTORY)
            yield opened_journal
    except (OSError, OverflowError) as error:
        raise CheckError(f"the journal in {DIRECTORY} cannot be read: {error}", DIRECTORY) from error


def _hex(boot: object) -> str:
    return getattr(boot, "hex", None) or str(boot)


def _text(value: object) -> str:
    if isinstance(value, list):
        value = value[0] if value else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
