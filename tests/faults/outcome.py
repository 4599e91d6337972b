"""What a scenario has shown: the row it becomes in docs/faults.md."""

from __future__ import annotations

import enum
import fcntl
import json
from dataclasses import asdict, dataclass
from pathlib import Path


class Stage(enum.StrEnum):
    """Where a scenario ran."""

    SIMULATED = "simulated device"
    PROCESS = "real processes"
    CONTAINER = "image in a container"
    MACHINE = "virtual T640"


@dataclass
class Report:
    """What a scenario says of itself for the table."""

    outcome: str = ""
    stage: Stage = Stage.SIMULATED
    boots: int = 0
    runs: int = 1


@dataclass(frozen=True)
class Outcome:
    """One scenario's result. `boots` is how often a system was started after the fault; `seconds` the test's time."""

    case: int
    scenario: str
    stage: Stage
    outcome: str
    boots: int
    runs: int
    seconds: float
    passed: bool


def save(path: Path, outcomes: list[Outcome]) -> None:
    """Write results, replacing earlier ones of the same scenarios; several test workers may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _merge(path, outcomes)


def _merge(path: Path, outcomes: list[Outcome]) -> None:
    kept = {(row.case, row.scenario): row for row in load(path)} | {(row.case, row.scenario): row for row in outcomes}
    rows = [asdict(row) for _, row in sorted(kept.items())]
    path.write_text(json.dumps(rows, indent=1) + "\n")


def load(path: Path) -> list[Outcome]:
    """Results of earlier runs; none when there is no file."""
    if not path.exists():
        return []
    return [Outcome(**(row | {"stage": Stage(row["stage"])})) for row in json.loads(path.read_text())]
