"""The running program: the service, its local API and systemd, on one event loop until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from pathlib import Path

from network_scanner import api
from network_scanner.config import Loaded
from network_scanner.notify import notify
from network_scanner.service import Service
from network_scanner.store import StoreError

log = logging.getLogger("network-scanner")

TICK = 1.0
"""Seconds between two turns of the service."""


class ServiceError(RuntimeError):
    """Why the service cannot run; `code` is the exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


async def serve(loaded: Loaded) -> None:
    """Run until SIGTERM or SIGINT. Raises `ServiceError`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        service = Service(loaded)
        sock = api.listen(Path(service.config.socket))
    except StoreError as error:
        raise ServiceError(2, str(error)) from error
    except OSError as error:
        raise ServiceError(2, f"{loaded.config.socket}: {error.strerror}; is the runtime directory there?") from error
    for warning in loaded.warnings:
        log.warning("%s", warning)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = api.server(service)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        await _loop(service, stop, serving)
    finally:
        notify("STOPPING=1")
        server.should_exit = True
        await asyncio.wait([serving], timeout=5)
        await service.close()
        api.remove(Path(service.config.socket))


async def _loop(service: Service, stop: asyncio.Event, serving: asyncio.Task[None]) -> None:
    ready = False
    while not stop.is_set():
        await service.tick()
        if serving.done():
            raise ServiceError(1, "the local API stopped; see the log above")
        ready = notify("WATCHDOG=1" if ready else "READY=1\nWATCHDOG=1") or ready
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), TICK)
