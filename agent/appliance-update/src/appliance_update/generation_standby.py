"""The standby of a host that keeps generations: the good one before what runs, preferred by loader.conf for one try.

What runs keeps its own good entry. Should the other one fail, it is spent and no longer preferred, and the loader takes
the newest good one: what ran before.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from appliance_update import generation_entries as boot_entries
from appliance_update import quarantine
from appliance_update.config import Generations
from appliance_update.entries import rename
from appliance_update.generation_entries import Entry, of_system
from appliance_update.generation_state import Unfit, lock, system_of
from appliance_update.host import Host
from appliance_update.record import State
from appliance_update.snapshots import SnapshotError, Snapshots
from appliance_update.standby import NoStandby
from appliance_update.store import Store

ONE_TRY = (1, 0)
"""The counter of an entry that is tried once."""


@dataclass(frozen=True)
class GenerationStandby:
    """A `Standby`. Its names are store paths: two systems may have the same version."""

    host: Host
    ours: Generations
    store: Store
    snapshots: Snapshots

    def running(self) -> str:
        """See `Standby.running`."""
        return str(self.host.path("/run/booted-system").readlink())

    def label(self, name: str) -> str:
        """See `Standby.label`."""
        with contextlib.suppress(Unfit):
            return system_of(self.host, name).label
        return name

    def other(self) -> str:
        """See `Standby.other`. The newest generation before ours that can still be started, else a later one."""
        running = self.running()
        entries = boot_entries.entries(self._loader / "entries")
        if self.store.record.state in (State.ARMED, State.TRIAL):
            raise NoStandby("a new generation waits for its first boot or is on trial")
        if not boot_entries.preferred(self._loader / "loader.conf"):
            raise NoStandby(f"{self._loader}/loader.conf prefers no entry, so the loader cannot be told to try another")
        own = max((entry.generation for entry in of_system(entries, running)), default=0)
        good = [entry for entry in entries if entry.system != running and self._was_good(entry)]
        if not good:
            raise NoStandby("there is no other generation that was good and can be started")
        return max(good, key=lambda entry: (entry.generation < own, entry.generation)).system

    def arm(self, other: str) -> None:
        """See `Standby.arm`."""
        known = boot_entries.entries(self._loader / "entries")
        entries = sorted(of_system(known, other), key=lambda entry: entry.generation)
        lock(self.store.state, f"{self.label(other)} is tried once")
        self._snapshot(other)
        for entry in entries:
            if entry.blessed:
                rename(entry, entry.counted(*ONE_TRY))
        boot_entries.prefer(self._loader / "loader.conf", entries[-1].identity)

    @property
    def _loader(self) -> Path:
        return self.host.path(f"{self.ours.boot}/loader")

    def _was_good(self, entry: Entry) -> bool:
        """Whether it proved itself here, did not fail since, and its store path has not been collected."""
        if not (entry.blessed or (entry.left, entry.done) == ONE_TRY):
            return False
        if entry.system in quarantine.held(self.store.quarantine_path, self.store.now()):
            return False
        return self.host.path(f"{entry.system}/init").exists()

    def _snapshot(self, other: str) -> None:
        """Of two systems of one version the schema is the same. What cannot be kept is read on."""
        with contextlib.suppress(SnapshotError, Unfit):
            if system_of(self.host, other).version != self.host.image_version:
                self.snapshots.take(self.host.image_version)

