"""Second thoughts: a version that was good, turned bad, and is left once for the standby.

Kept in a file of their own: whoever has them must not depend on an updater that may be what turned bad.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from appliance_update.entries import Counted
from appliance_update.files import Unreadable, decode, read_limited, write_json

FILE = "second-thoughts.json"
LIMIT = 256 * 1024


class Stage(enum.StrEnum):
    """How far it has come: decided, the other one armed and booted next, and how that did."""

    BEGUN = "begun"
    ARMED = "armed"
    OTHER_KEPT = "other_kept"
    CAME_BACK = "came_back"

    @property
    def pending(self) -> bool:
        """Whether it is not over."""
        return self in (Stage.BEGUN, Stage.ARMED)


class Verdict(enum.StrEnum):
    """What a boot says of a thought that is not over."""

    OTHER_PROVED = "other_proved"
    OTHER_ON_TRIAL = "other_on_trial"
    OTHER_FAILED = "other_failed"
    NOT_TRIED = "not_tried"
    OVERTAKEN = "overtaken"
    """Neither runs, or the other one is gone: an update came first."""


@dataclass(frozen=True)
class Thought:
    """Why (and when, seconds since the epoch) a version is left for `other`; `boot` is the boot that decided it."""

    other: str
    reason: str
    at: float
    stage: Stage = Stage.BEGUN
    boot: str = ""

    def verdict(self, version: str, running: str, others: Sequence[Counted]) -> Verdict:
        """What follows from what runs, and from the boot entries of `other`."""
        if running == self.other:
            return Verdict.OTHER_PROVED if any(entry.blessed for entry in others) else Verdict.OTHER_ON_TRIAL
        if running != version or not others:
            return Verdict.OVERTAKEN
        return Verdict.OTHER_FAILED if any(entry.spent for entry in others) else Verdict.NOT_TRIED


@dataclass(frozen=True)
class Thoughts:
    """By the version that turned bad: a version is in here once, so it is left once."""

    versions: dict[str, Thought] = field(default_factory=dict)
    format: int = 1

    def pending(self) -> tuple[str, Thought] | None:
        """The one that is not over."""
        return next(((version, thought) for version, thought in self.versions.items() if thought.stage.pending), None)


def load(state: Path) -> Thoughts | None:
    """The thoughts so far; None when they cannot be read, and then none may be had: a loop would be worse."""
    try:
        return decode(read_limited(state / FILE, LIMIT), Thoughts, FILE)
    except FileNotFoundError:
        return Thoughts()
    except (Unreadable, OSError):
        return None


def save(state: Path, version: str, thought: Thought) -> None:
    """Keep one. Raises `OSError`."""
    known = load(state) or Thoughts()
    write_json(state / FILE, replace(known, versions={**known.versions, version: thought}))


def ended(thought: Thought, stage: Stage) -> Thought:
    """The same thought, further on."""
    return replace(thought, stage=stage)
