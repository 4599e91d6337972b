"""The services' databases on a simulated device, and services that migrate them as the real ones do."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.appliance_update.simulator import Device

AGENT = "var/lib/compliance-agent/agent.db"
SCANNER = "var/lib/network-scanner/devices.db"
EVIDENCE = "var/lib/compliance-agent/evidence.db"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A writer's connection, in the journal mode the services use."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")  # the power cuts here are between the updater's writes
        yield connection
    finally:
        connection.close()


@dataclass
class Services:
    """All services of one device; `knows` maps a version to the schema that its code knows (1 if not named)."""

    device: Device
    knows: dict[str, int] = field(default_factory=dict)
    evidence: list[str] = field(default_factory=list)
    hold: bool = True
    """Whether the services keep from migrating while the boot is a trial; False is a service that does not."""

    def start(self) -> None:
        """Start under the running version: migrate if this is no trial, and write a row into everything."""
        version = self.device.host.image_version
        known = self.knows.get(version, 1)
        on_trial = (self.device.runtime / "trial").exists()
        for name in (AGENT, SCANNER):
            with opened(self.device.root / name) as database:
                database.execute("BEGIN IMMEDIATE")
                present = database.execute("PRAGMA user_version").fetchone()[0]
                database.execute("CREATE TABLE IF NOT EXISTS rows (content TEXT)")
                if not present or (known > present and not (on_trial and self.hold)):
                    for step in range(max(present, 1), known):
                        database.execute(f"ALTER TABLE rows ADD COLUMN step_{step + 1} TEXT")
                    database.execute(f"PRAGMA user_version={known}")
                database.execute("INSERT INTO rows (content) VALUES (?)", (version,))
                database.execute("COMMIT")
        self.append(version)

    def append(self, content: str) -> None:
        """The agent writes evidence, under whatever version."""
        with opened(self.device.root / EVIDENCE) as database:
            database.execute("CREATE TABLE IF NOT EXISTS evidence (sequence INTEGER PRIMARY KEY, content TEXT)")
            database.execute("INSERT INTO evidence (content) VALUES (?)", (content,))
        self.evidence.append(content)

    def schema(self, name: str = AGENT) -> int:
        with opened(self.device.root / name) as database:
            return int(database.execute("PRAGMA user_version").fetchone()[0])

    def rows(self, name: str = AGENT) -> list[str]:
        with opened(self.device.root / name) as database:
            assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            return [row[0] for row in database.execute("SELECT content FROM rows ORDER BY rowid")]

    def check_evidence(self) -> None:
        """Nothing lost, nothing doubled, in order."""
        with opened(self.device.root / EVIDENCE) as database:
            found = [row[0] for row in database.execute("SELECT content FROM evidence ORDER BY sequence")]
        assert found == self.evidence
