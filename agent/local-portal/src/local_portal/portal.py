"""The portal's parts in one place, as every page finds them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from local_portal import forms, names
from local_portal.backends import Backend
from local_portal.certificates import Certificates
from local_portal.config import Config
from local_portal.names import Names
from local_portal.sessions import Session, Sessions
from local_portal.store import Event, Store, open_database
from local_portal.throttle import Throttle
from local_portal.updater import UpdaterFiles

_NAMES_SECONDS = 10


def boot_time() -> float:
    """Seconds since this boot, suspended time included; never jumps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Clock:
    """The two clocks; tests bring their own."""

    now: Callable[[], float] = time.time
    ticks: Callable[[], float] = boot_time


@dataclass
class Portal:
    """Everything a request may need."""

    config: Config
    clock: Clock
    store: Store
    sessions: Sessions
    throttle: Throttle
    agent: Backend
    scanner: Backend
    updater: UpdaterFiles
    certificates: Certificates
    _names: tuple[float, Names] | None = field(default=None, repr=False)

    def own_names(self) -> Names:
        """The appliance's names and addresses, at most ten seconds old."""
        ticks = self.clock.ticks()
        if self._names is None or not 0 <= ticks - self._names[0] < _NAMES_SECONDS:
            self._names = (ticks, names.current(self.config.names))
        return self._names[1]

    def form_token(self, cookie: str) -> str:
        """See `forms.token`."""
        return forms.token(self.store.secret, cookie)

    def record(self, account: str, address: str, kind: str, detail: str = "") -> None:
        """Append to the log of events."""
        self.store.record(Event(self.clock.now(), account, address, kind, detail))

    def close(self) -> None:
        """Let go of threads and files."""
        self.agent.close()
        self.scanner.close()
        self.store.close()


def build(config: Config, clock: Clock | None = None) -> Portal:
    """Open everything the configuration names.

    Raises `StoreError` when a database cannot be opened.
    """
    clock = clock or Clock()
    store = Store(config.state)
    volatile = open_database(config.runtime / "sessions.db")
    return Portal(
        config=config,
        clock=clock,
        store=store,
        sessions=Sessions(volatile, clock.ticks, config.idle_minutes * 60.0, config.session_hours * 3600.0),
        throttle=Throttle(volatile, clock.ticks),
        agent=Backend("compliance agent", "compliance-agent", Path(config.agent_socket), config.backend_seconds),
        scanner=Backend("network scanner", "network-scanner", Path(config.scanner_socket), config.backend_seconds),
        updater=UpdaterFiles(Path(config.updater_status), Path(config.updater_history)),
        certificates=Certificates(config.state),
    )


__all__ = ["Clock", "Portal", "Session", "build"]
