"""Check results seen from the requirements they speak for: one control, its checks, the worst verdict."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from appliance_protocol.verdict import CheckResult, Citation, Coverage, Framework, Verdict


class Standing(enum.StrEnum):
    """How a check or a control stands in the reader's eyes, worst first."""

    NOT_MET = "not met"
    NOT_KNOWN = "not known"
    OUT_OF_DATE = "out of date"
    MET = "met"
    EXEMPT = "does not apply"


_WORST_FIRST = tuple(Standing)


@dataclass(frozen=True)
class Control:
    """One requirement and what the checks say about it."""

    framework: Framework
    reference: str
    title: str
    required: bool | None
    coverage: Coverage
    """The strongest coverage any of its checks gives."""
    standing: Standing
    results: tuple[CheckResult, ...]


def standing(result: CheckResult, now: float) -> Standing:
    """A verdict in plain words. Only a fresh pass is "met"; error and unknown are neither met nor exempt."""
    if result.verdict is Verdict.FAIL:
        return Standing.NOT_MET
    if result.verdict in (Verdict.ERROR, Verdict.UNKNOWN, Verdict.NOT_CHECKED):
        return Standing.NOT_KNOWN
    if not result.verdict.conforms:
        return Standing.EXEMPT
    return Standing.OUT_OF_DATE if result.stale(now) or result.checked_at > now + 600 else Standing.MET


def by_control(results: Iterable[CheckResult], framework: Framework, now: float) -> list[Control]:
    """The framework's controls in the order of their references, each with its checks, worst first."""
    cited: dict[str, list[tuple[Citation, CheckResult]]] = {}
    for result in results:
        for citation in result.citations:
            if citation.framework is framework:
                cited.setdefault(citation.reference, []).append((citation, result))
    return [_control(cited[reference], now) for reference in sorted(cited, key=_natural)]


def _control(cited: list[tuple[Citation, CheckResult]], now: float) -> Control:
    first = cited[0][0]
    checks = {result.check_id: result for _, result in cited}
    results = sorted(checks.values(), key=lambda result: _WORST_FIRST.index(standing(result, now)))
    strongest = min((citation.coverage for citation, _ in cited), key=list(Coverage).index)
    return Control(first.framework, first.reference, first.title, first.required, strongest,
                   standing(results[0], now), tuple(results))


def _natural(reference: str) -> list[tuple[int, int, str]]:
    """`CC6.8` before `CC6.10`, `164.308(a)(1)(ii)(A)` before `164.312(b)`."""
    parts: list[tuple[int, int, str]] = []
    digits = ""
    for char in reference + "\0":
        if char.isascii() and char.isdigit() and len(digits) < 9:
            digits += char
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, char))
    return parts


def tally(results: Iterable[CheckResult], now: float) -> dict[Standing, int]:
    """How many checks stand how."""
    counts = dict.fromkeys(Standing, 0)
    for result in results:
        counts[standing(result, now)] += 1
    return counts
