"""What a device is: weighted rules over its facts, each with the reason a person can read.

The rules are data, one file per class in `rules/`. Two pseudo kinds widen a rule: `name` looks at every kind of
name, `text` at everything a device says of itself in words.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from appliance_protocol.inventory import DeviceClass
from network_scanner.facts import NAME_KINDS, Fact, FactKind

THRESHOLD = 0.40
"""Below this the class is unknown."""
SUSPICION = 0.30
"""From this on a device is treated as the fragile thing it may be, whatever else it looks like."""
MAX_REASONS = 8

_TEXT_KINDS = frozenset({
    FactKind.MDNS_MODEL, FactKind.MDNS_INSTANCE, FactKind.SSDP_SERVER, FactKind.HTTP_SERVER, FactKind.HTTP_TITLE,
    FactKind.SSH_BANNER, FactKind.SNMP_DESCRIPTION, FactKind.TLS_NAME,
})
_PSEUDO = {"name": frozenset(NAME_KINDS), "text": _TEXT_KINDS}
_CARE = (DeviceClass.MEDICAL, DeviceClass.PRINTER)


class RuleError(ValueError):
    """A rule file that cannot be used; the message names file and rule."""


@dataclass(frozen=True)
class Rule:
    """One line of evidence for a class."""

    device_class: DeviceClass
    kinds: frozenset[FactKind]
    match: re.Pattern[str]
    weight: float
    reason: str


@dataclass(frozen=True)
class Classification:
    """The verdict: class, confidence (0 to 1), and why, the strongest reason first."""

    device_class: DeviceClass
    confidence: float
    reasons: tuple[str, ...]
    medical: float
    printer: float

    @property
    def fragile(self) -> bool:
        """Whether anything suggests a medical device or a printer: then nothing is ever sent to it."""
        return self.medical >= SUSPICION or self.printer >= SUSPICION


def read_rules(text: str, device_class: DeviceClass) -> list[Rule]:
    """The rules of one file. Raises `RuleError`."""
    try:
        entries = tomllib.loads(text).get("rule", [])
    except tomllib.TOMLDecodeError as error:
        raise RuleError(f"rules/{device_class}.toml: {error}") from error
    return [_rule(entry, device_class, number) for number, entry in enumerate(entries, 1)]


def _rule(entry: dict[str, Any], device_class: DeviceClass, number: int) -> Rule:
    where = f"rules/{device_class}.toml, rule {number}"
    try:
        kind, weight = str(entry["fact"]), int(entry["weight"])
        kinds = _PSEUDO[kind] if kind in _PSEUDO else frozenset({FactKind(kind)})
        pattern = re.compile(entry["match"], re.IGNORECASE)
        reason = str(entry["reason"])
    except (KeyError, ValueError, TypeError, re.error) as error:
        raise RuleError(f"{where}: {error!r}") from error
    if not 1 <= weight <= 99:
        raise RuleError(f"{where}: weight {weight} is not between 1 and 99")
    return Rule(device_class, kinds, pattern, weight / 100, reason)


@cache
def shipped_rules() -> tuple[Rule, ...]:
    """The rules of the package. Raises `RuleError` when one is damaged."""
    folder = resources.files("network_scanner") / "rules"
    rules: list[Rule] = []
    for device_class in DeviceClass:
        if device_class is not DeviceClass.UNKNOWN:
            rules += read_rules((folder / f"{device_class}.toml").read_text(encoding="utf-8"), device_class)
    return tuple(rules)


def classify(facts: Iterable[Fact], rules: tuple[Rule, ...] | None = None) -> Classification:
    """Weigh the facts of one device."""
    by_kind: dict[FactKind, list[str]] = {}
    for item in facts:
        by_kind.setdefault(item.kind, []).append(item.value)
    doubt = dict.fromkeys(DeviceClass, 1.0)
    reasons: dict[DeviceClass, list[tuple[float, str]]] = {}
    for rule in shipped_rules() if rules is None else rules:
        value = next((text for kind in rule.kinds for text in by_kind.get(kind, ()) if rule.match.search(text)), None)
        if value is not None:
            doubt[rule.device_class] *= 1 - rule.weight
            reasons.setdefault(rule.device_class, []).append((rule.weight, f"{rule.reason}: {value[:80]}"))
    confidence = {device_class: 1 - left for device_class, left in doubt.items()}
    return _verdict(confidence, reasons)


def _verdict(
    confidence: dict[DeviceClass, float], reasons: dict[DeviceClass, list[tuple[float, str]]]
) -> Classification:
    order = [*_CARE, *(item for item in DeviceClass if item not in _CARE)]
    best = max(order, key=lambda item: round(confidence[item], 6))
    medical, printer = confidence[DeviceClass.MEDICAL], confidence[DeviceClass.PRINTER]
    if confidence[best] < THRESHOLD:
        hint = "nothing is known of it yet" if not reasons else f"too little evidence; most like {best}"
        return Classification(DeviceClass.UNKNOWN, 0.0, (hint,), medical, printer)
    why = sorted(reasons[best], key=lambda item: -item[0])[:MAX_REASONS]
    return Classification(best, round(confidence[best], 2), tuple(text for _, text in why), medical, printer)
