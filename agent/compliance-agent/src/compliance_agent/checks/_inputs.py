"""What a check has read: every input is remembered, so that source and digest of a finding cannot be forgotten."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from appliance_protocol.verdict import Verdict
from compliance_agent.checks.base import Finding, Host
from compliance_agent.errors import CheckError
from compliance_agent.privileged import PrivilegedFacts

Kind = TypeVar("Kind")


class Inputs:
    """Reads through a `Host`. Everything raises `CheckError` where the box does not answer or answers nonsense."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._read: list[tuple[str, bytes]] = []

    # -- reading ------------------------------------------------------------------------------------------------------

    def note(self, source: str, raw: bytes | str) -> None:
        """Remember an input that was read by other means."""
        self._read.append((source, raw.encode("utf-8", "replace") if isinstance(raw, str) else raw))

    def bytes(self, path: str, limit: int = 1 << 20) -> bytes:
        """A file's contents."""
        raw = self.host.read_bytes(path, limit)
        self.note(path, raw)
        return raw

    def text(self, path: str, limit: int = 1 << 20) -> str:
        """A file's contents as UTF-8, undecodable bytes replaced."""
        return self.bytes(path, limit).decode(errors="replace")

    def text_if_there(self, path: str, limit: int = 1 << 20) -> str | None:
        """A file's contents; None only when there is no such file. Any other trouble raises `CheckError`."""
        try:
            return self.text(path, limit)
        except CheckError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                self.note(path, "(no such file)")
                return None
            raise

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        try:
            names = sorted(entry.name for entry in self.host.path(path).iterdir())
        except OSError as error:
            raise CheckError(f"{path} cannot be listed: {error.strerror or error}", path) from error
        self.note(f"{path}/", "\n".join(names))
        return names

    def integer(self, path: str) -> int:
        """A file that holds one decimal number."""
        text = self.text(path, 4096).strip()
        try:
            return int(text)
        except ValueError:
            raise CheckError(f"{path} holds {text[:60]!r}, not a number", path) from None

    def property(self, service: str, path: str, interface: str, name: str, kind: type[Kind]) -> Kind:
        """A D-Bus property of a known type."""
        value = self.host.bus.property(service, path, interface, name)
        source = f"D-Bus {interface}.{name}"
        self.note(source, _plain(value))
        return as_kind(value, kind, source)

    def call(self, service: str, path: str, interface: str, method: str, *arguments: Any) -> list[Any]:
        """A D-Bus call that answers with a list."""
        value = self.host.bus.call(service, path, interface, method, *arguments)
        source = f"D-Bus {interface}.{method}"
        self.note(source, _plain(value))
        return list(as_kind(value, (list, tuple), source))

    def privileged(self) -> PrivilegedFacts:
        """What only root can read. Note the part that was used with `note`."""
        return self.host.privileged()

    def reading(self, name: str) -> str:
        """The output of one of the collector's commands."""
        reading = self.privileged().reading(name)
        text = reading.text()
        self.note(reading.source, text)
        return text

    # -- concluding ---------------------------------------------------------------------------------------------------

    def finding(self, verdict: Verdict, reason: str, facts: Mapping[str, object] | None = None) -> Finding:
        """The finding, with every input read so far as its source and raw material."""
        sources = list(dict.fromkeys(source for source, _ in self._read))
        shown = ", ".join(sources[:6]) + (f" and {len(sources) - 6} more" if len(sources) > 6 else "")
        raw = b"".join(
            b"%s\n%d\n%s\n" % (source.encode("utf-8", "replace"), len(raw), raw) for source, raw in self._read
        )
        return Finding(verdict, reason, shown, raw, {key: str(value) for key, value in (facts or {}).items()})

    def passed(self, reason: str, facts: Mapping[str, object] | None = None) -> Finding:
        """The requirement was seen to be met."""
        return self.finding(Verdict.PASS, reason, facts)

    def failed(self, reason: str, facts: Mapping[str, object] | None = None) -> Finding:
        """The requirement was seen not to be met."""
        return self.finding(Verdict.FAIL, reason, facts)

    def unknown(self, reason: str, facts: Mapping[str, object] | None = None) -> Finding:
        """Everything could be read, and still it does not say."""
        return self.finding(Verdict.UNKNOWN, reason, facts)

    def informational(self, reason: str, facts: Mapping[str, object] | None = None) -> Finding:
        """Worth knowing; there is nothing to be met."""
        return self.finding(Verdict.INFORMATIONAL, reason, facts)

    def not_applicable(self, rule: str) -> Finding:
        """A declared rule (a key of the `[checks]` table) exempts this box."""
        self.note("the [checks] table of the configuration", rule)
        return self.finding(Verdict.NOT_APPLICABLE, rule)


def as_kind(value: Any, kind: type[Kind] | tuple[type[Kind], ...], source: str) -> Kind:
    """`value` when it is of that kind (a bool is no int). Raises `CheckError` naming `source`."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise CheckError(f"{source} answered {type(value).__name__}, which this check cannot read", source)
    return value


def assignments(text: str) -> dict[str, str]:
    """`KEY=value` lines, quotes removed, as in os-release and uevent files; anything else is skipped."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if separator and key and not key.startswith("#"):
            found[key] = value.strip().strip("\"'")
    return found


def count(number: int, noun: str) -> str:
    """`1 key`, `2 keys`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(items: list[str], most: int = 5) -> str:
    """The first few of a list, for a sentence."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def span(seconds: float) -> str:
    """A duration for people."""
    seconds = abs(seconds)
    for size, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {noun}s"
    return f"{seconds:.0f} s"


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)
