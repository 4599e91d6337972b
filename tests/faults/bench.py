"""The bench: one device, one fault, and the invariant at the end.

A simulated device carries a real evidence ledger beside the real updater, and its "agent" appends to it at every boot
and whenever the scenario says so. `holds` is the end of every scenario.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance_update import faults
from appliance_update.record import State
from appliance_update.store import Busy
from appliance_update.updater import UpdateError
from tests.appliance_update.conftest import V1, World
from tests.appliance_update.simulator import boot
from tests.faults.outcome import Report


class PowerCut(BaseException):
    """Nothing after this line of the program happens."""


@dataclass
class Bench:
    """A device under one fault."""

    world: World
    report: Report
    evidence: Evidence = field(init=False)
    good: set[str] = field(default_factory=lambda: {V1})

    def __post_init__(self) -> None:
        self.evidence = Evidence(self.world.device.root / "var/lib/compliance-agent/evidence.db")
        self.evidence.append("installed")

    # -- what happens to the device -----------------------------------------------------------------------------------

    def publish(self, version: str, *, good: bool = True, **changes: object) -> None:
        """Publish a version; `good` says whether it will pass its gate."""
        clock, self.world.now = self.world.now, time.time  # the publisher's clock is right
        self.world.publish(version, **changes)
        self.world.now = clock
        if good:
            self.good.add(version)

    def run(self, **changes: object) -> str:
        """One run of the updater, as its timer starts it; expected refusals are returned as their sentence."""
        try:
            return self.world.updater(**changes).run()[1]
        except (UpdateError, Busy, OSError) as error:
            return str(error)

    def boot(self) -> str:
        """Power on, and what happens after: the agent writes evidence, the updater settles. The version that runs."""
        version = boot(self.world.device, healthy=self.good)
        assert version is not None, f"nothing boots any more: {self.world.device.boots}"
        self.report.boots += len(self.world.device.boots)
        self.evidence.append(f"boot {version}")
        self.world.settle()
        return version

    def cut_at(self, place: Callable[[str], bool], error: Callable[[], BaseException] = PowerCut) -> bool:
        """One run of the updater that meets `error` at the first fault point that `place` picks; whether it came."""
        met = False

        def hook(name: str) -> None:
            nonlocal met
            if not met and place(name):
                met = True
                raise error()

        with hooked(hook), contextlib.suppress(PowerCut):
            self.run()
        return met

    # -- the invariant ------------------------------------------------------------------------------------------------

    def holds(self, following: str, outcome: str) -> None:
        """Some slot boots, the updater applies `following`, and no evidence is lost or doubled."""
        self.boot()
        self.evidence.append("before the next update")
        if following not in self.good:
            self.publish(following)
        for _ in range(4):
            if self.world.device.host.image_version != following:
                said = self.run()
                self.boot()
            record = self.world.settle().store.record
            if record.state is State.COMMITTED and record.good_version == following:
                break
        else:
            raise AssertionError(f"the updater cannot apply {following}: {record.state} {record.detail}; {said}")
        self.evidence.check()
        self.report.outcome = outcome


@contextlib.contextmanager
def hooked(hook: Callable[[str], None]) -> Iterator[None]:
    """Watch every fault point for a while."""
    faults.set_hook(hook)
    try:
        yield
    finally:
        faults.set_hook(None)


class Evidence:
    """A ledger like the agent's, as far as the updater can touch it: a database on state with a chain inside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE IF NOT EXISTS evidence (sequence INTEGER PRIMARY KEY, content TEXT)")
            database.commit()

    def append(self, content: str) -> None:
        """What the agent does: the next sequence number, committed."""
        with contextlib.closing(sqlite3.connect(self.path)) as database:
            database.execute("INSERT INTO evidence (content) VALUES (?)", (content,))
            database.commit()
        self.written.append(content)

    def check(self) -> None:
        """Exactly what was written is there, in order."""
        with contextlib.closing(sqlite3.connect(self.path)) as database:
            rows = database.execute("SELECT sequence, content FROM evidence ORDER BY sequence").fetchall()
        assert [content for _, content in rows] == self.written
        assert [sequence for sequence, _ in rows] == list(range(1, len(rows) + 1))
