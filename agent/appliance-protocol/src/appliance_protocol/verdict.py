"""What a compliance check says: one of XCCDF's nine verdicts, with the reason and what it stands on."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Verdict(enum.StrEnum):
    """The nine result values of XCCDF 1.2 (NIST IR 7275r4, table 26). Only `PASS` and `FIXED` count as conforming."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    ERROR = "error"
    UNKNOWN = "unknown"
    NOT_APPLICABLE = "notapplicable"
    NOT_CHECKED = "notchecked"
    NOT_SELECTED = "notselected"
    INFORMATIONAL = "informational"
    FIXED = "fixed"

    @property
    def conforms(self) -> bool:
        """Whether the requirement was shown to be met."""
        return self in (Verdict.PASS, Verdict.FIXED)

    @property
    def counts(self) -> bool:
        """Whether the verdict belongs in a score: error and unknown do (as not met), exemptions do not."""
        return self in (Verdict.PASS, Verdict.FIXED, Verdict.FAIL, Verdict.ERROR, Verdict.UNKNOWN)


class Coverage(enum.StrEnum):
    """How far a check alone proves the requirement it cites."""

    AUTOMATED = "automated"
    PARTIAL = "partial"
    HUMAN = "human"


class Framework(enum.StrEnum):
    """The catalogue a citation comes from."""

    HIPAA = "hipaa"
    SOC2 = "soc2"


@dataclass(frozen=True)
class Citation:
    """A requirement, at the level of the implementation specification or criterion.

    `reference` is the field's own notation: `164.312(a)(2)(i)` (45 CFR) or `CC6.1` (TSP section 100).
    `required` tells HIPAA's required (true) from addressable (false) specifications; None where there is no such mark.
    """

    framework: Framework
    reference: str
    title: str
    coverage: Coverage
    required: bool | None = None


@dataclass(frozen=True)
class CheckResult:
    """One check's verdict at one time. Times are seconds since the epoch (UTC)."""

    check_id: str
    title: str
    verdict: Verdict
    reason: str
    checked_at: float
    expires_at: float
    source: str
    """The command, file or D-Bus query the verdict was read from."""
    input_digest: str
    """`sha256:` and the hexadecimal digest of the raw input, so that an auditor can match it."""
    citations: tuple[Citation, ...]
    does_not_prove: str
    facts: dict[str, str] = field(default_factory=dict)
    """The few values a person needs to understand the verdict."""
    remedy: str = ""
    """What a technician does next when the verdict is not a pass."""

    def stale(self, now: float) -> bool:
        """Whether the verdict is too old to count as one."""
        return now >= self.expires_at


@dataclass(frozen=True)
class Score:
    """How many requirements are shown to be met, of how many that count. No checks is no score, never 100 %."""

    conforming: int
    counted: int

    @property
    def percent(self) -> int | None:
        """The share in percent, rounded down; None when nothing counts."""
        return None if self.counted == 0 else self.conforming * 100 // self.counted


def score(results: tuple[CheckResult, ...] | list[CheckResult], now: float) -> Score:
    """Count the latest results. A stale pass counts, but not as conforming."""
    counted = [result for result in results if result.verdict.counts]
    conforming = [result for result in counted if result.verdict.conforms and not result.stale(now)]
    return Score(len(conforming), len(counted))
