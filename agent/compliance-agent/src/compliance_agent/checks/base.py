"""What a check is, what it may look at, and how checks are found.

A check is one file in this package with one subclass of `Check`. It reads the box through its `Host` only, so that a
fixture (a file tree, a recorded bus) can stand in for the box, and it says what it saw as a `Finding`. It need not
catch anything: the runner turns an exception or a missed deadline into the verdict `error` with the reason.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from appliance_protocol.clock import ClockReading
from appliance_protocol.verdict import CheckResult, Citation, Verdict
from compliance_agent.config import Config
from compliance_agent.errors import CheckError
from compliance_agent.privileged import PrivilegedFacts

MAX_REASON = 1000
"""Longest reason and fact, in characters; the rest is cut so that one odd file cannot bloat the evidence."""
MAX_FACTS = 50
"""Most facts kept of one finding."""


class Clock(Protocol):
    """Anything that can read the time (`facts.clock.SystemClock` on the box)."""

    def read(self) -> ClockReading:
        """Wall and monotonic time with the state of synchronisation."""


class Bus(Protocol):
    """The system bus, as far as checks need it (`bus.SystemBus` on the box). Both raise `CheckError`."""

    def property(self, service: str, path: str, interface: str, name: str) -> Any:
        """One property, as plain Python data."""

    def call(self, service: str, path: str, interface: str, method: str, *arguments: Any) -> Any:
        """One method call that takes no file descriptors, its reply as plain Python data."""


@dataclass(frozen=True)
class Host:
    """The box a check looks at."""

    root: Path
    """`/` on the box, a fixture's directory in a test."""
    config: Config
    clock: Clock
    bus: Bus
    read_privileged: Callable[[], PrivilegedFacts]
    """See `privileged`."""
    assigned_version: str | None = None
    """The release Central Command assigned to this box; None when it never said, empty when it assigned none."""

    def path(self, absolute: str) -> Path:
        """`absolute` (`/etc/os-release`) below this host's root."""
        return self.root / absolute.lstrip("/")

    def read_bytes(self, absolute: str, limit: int = 1 << 20) -> bytes:
        """A file's contents, at most `limit` bytes. Raises `CheckError` when it cannot be read or is larger."""
        try:
            with self.path(absolute).open("rb") as file:
                content = file.read(limit + 1)
        except OSError as error:
            raise CheckError(f"{absolute} cannot be read: {error.strerror or error}", absolute) from error
        if len(content) > limit:
            raise CheckError(f"{absolute} is larger than {limit} bytes", absolute)
        return content

    def read_text(self, absolute: str, limit: int = 1 << 20) -> str:
        """A file's contents as UTF-8 (undecodable bytes replaced). Raises `CheckError` like `read_bytes`."""
        return self.read_bytes(absolute, limit).decode(errors="replace")

    def privileged(self) -> PrivilegedFacts:
        """What only root can read, as collected by `compliance-agent collect`.

        Raises `CheckError` when the facts are missing, unreadable or too old.
        """
        return self.read_privileged()


@dataclass(frozen=True)
class Finding:
    """What a check saw."""

    verdict: Verdict
    reason: str
    """One sentence a technician understands."""
    source: str
    """The command, file or D-Bus query the verdict was read from."""
    raw: bytes = b""
    """The raw input the verdict was read from; only its digest leaves the box."""
    facts: dict[str, str] = field(default_factory=dict)
    """The few values a person needs to understand the verdict; no secrets."""


class Check(ABC):
    """One requirement, looked at in one way. Subclasses set the class attributes and write `run`."""

    id: ClassVar[str]
    """Lower case with hyphens, never reused for something else: `firewall-default-deny`."""
    title: ClassVar[str]
    reads: ClassVar[str] = ""
    """What it looks at, in words for the catalogue (docs/checks.md)."""
    citations: ClassVar[tuple[Citation, ...]]
    does_not_prove: ClassVar[str]
    """What an auditor must not conclude from a pass."""
    remedy: ClassVar[str]
    """What a technician does next when the verdict is not a pass."""
    interval: ClassVar[float] = 300.0
    """Seconds between two runs."""
    expiry: ClassVar[float] = 900.0
    """Seconds after which the verdict is stale and no longer counts as conforming."""
    deadline: ClassVar[float] = 4.0
    """Seconds a run may take."""

    @abstractmethod
    def run(self, host: Host) -> Finding:
        """Look, and say what was seen. May block; may raise anything."""

    def result(self, finding: Finding, checked_at: float) -> CheckResult:
        """The finding as it goes into the evidence, bounded in size."""
        facts = {clean(key): clean(value) for key, value in list(finding.facts.items())[:MAX_FACTS]}
        return CheckResult(
            check_id=self.id,
            title=self.title,
            verdict=finding.verdict,
            reason=clean(finding.reason),
            checked_at=checked_at,
            expires_at=checked_at + self.expiry,
            source=clean(finding.source),
            input_digest="sha256:" + hashlib.sha256(finding.raw).hexdigest(),
            citations=self.citations,
            does_not_prove=self.does_not_prove,
            facts=facts,
            remedy=self.remedy,
        )


def clean(text: object) -> str:
    """`text` as it may stand in evidence and on a terminal: no control characters, no lone surrogates, bounded."""
    shown = str(text).encode("utf-8", "replace").decode()
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in shown)
    return shown if len(shown) <= MAX_REASON else shown[: MAX_REASON - 1] + "…"


class UnloadableCheck(Check):
    """Stands for a file in this package that cannot be imported: the agent goes on, the verdict is `error`."""

    title = "A check that cannot be loaded"
    citations = ()
    does_not_prove = "Anything: the check did not run."
    remedy = "Roll the appliance back to the previous release and report the reason to its makers."

    def __init__(self, module: str, reason: str) -> None:
        self.id = module.replace("_", "-")  # type: ignore[misc]
        self.reason = reason

    def run(self, host: Host) -> Finding:
        """Say why the check cannot be loaded."""
        raise CheckError(self.reason, self.id)


_NOT_CHECKS = {"base", "settings"}


def discover() -> tuple[Check, ...]:
    """Every check in this package, by id. A file that cannot be imported yields an `UnloadableCheck`.

    Raises `ValueError` when two checks claim one id.
    """
    from compliance_agent import checks

    found: dict[str, Check] = {}
    for module in sorted(pkgutil.iter_modules(checks.__path__), key=lambda item: item.name):
        if module.name in _NOT_CHECKS or module.name.startswith("_") or module.ispkg:
            continue
        for check in _checks_in(f"{checks.__name__}.{module.name}", module.name):
            if check.id in found:
                raise ValueError(f"two checks have the id {check.id!r}: the second is in {module.name}.py")
            found[check.id] = check
    return tuple(found[check_id] for check_id in sorted(found))


def _checks_in(qualified: str, name: str) -> list[Check]:
    try:
        module = importlib.import_module(qualified)
        classes = [
            member
            for _, member in inspect.getmembers(module, inspect.isclass)
            if issubclass(member, Check) and not inspect.isabstract(member) and member.__module__ == qualified
        ]
        return [member() for member in classes]
    except Exception as error:
        return [UnloadableCheck(name, f"checks/{name}.py cannot be loaded: {error!r}")]
