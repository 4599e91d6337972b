"""Start the server: schema, key, services, uvicorn, and the word to systemd when all of it works."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path
from typing import Literal

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from central_command import application, migrate, signing
from central_command.database import Database
from central_command.services import Services
from central_command.settings import Settings, SettingsError

log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); without systemd nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(state.encode())


async def prepare(settings: Settings) -> Services:
    """Database at the right schema, key in place. Raises `SchemaError`, `ServerKeyError`, `SettingsError`."""
    data = settings.data_directory
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"data: {data} cannot be made: {error.strerror}") from error
    database = Database(settings.database)
    before, after = await migrate.upgrade(database)
    if before != after:
        log.info("database schema: %s -> %s", before or "empty", after)
    return Services(settings, database, await signing.load_or_create(data, database))


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises what `prepare` raises, and `OSError` when the port cannot be had."""
    _check_tls(settings)
    services = await prepare(settings)
    await Server(configuration(settings, application.create(services))).serve()


def configuration(settings: Settings, app: ASGIApp, lifespan: Literal["on", "off"] = "on") -> uvicorn.Config:
    """How uvicorn runs our application, and in the benchmark the bare one beside it."""
    # "auto" would take whichever HTTP parser happens to be installed; ours is the one with a limit on slow heads.
    return uvicorn.Config(
        app, host=settings.host, port=settings.port, http=_protocol(settings), ws="none", lifespan=lifespan,
        log_config=None, access_log=False, server_header=False, date_header=True,
        ssl_certfile=settings.tls_cert or None, ssl_keyfile=settings.tls_key or None,
        limit_concurrency=settings.limits.connections, timeout_keep_alive=75, timeout_graceful_shutdown=20,
        proxy_headers=bool(settings.trusted_proxies), forwarded_allow_ips=list(settings.trusted_proxies),
        backlog=1024,
    )


def _check_tls(settings: Settings) -> None:
    for name in ("tls_cert", "tls_key"):
        path = getattr(settings, name)
        if path and not os.access(path, os.R_OK):
            raise SettingsError(f"{name}: {Path(path)} cannot be read by this user")


class Server(uvicorn.Server):
    """uvicorn, which says when it is ready and feeds the watchdog from the loop that does the work."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, then say so."""
        await super().startup(sockets)
        if not self.started:
            return
        scheme = "https" if self.config.is_ssl else "http"
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                print(f"listening on {scheme}://{shown}:{port}", flush=True)
        notify("READY=1")

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second by uvicorn; the watchdog hears of it every five seconds."""
        if counter % 50 == 0:
            notify("WATCHDOG=1")
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is being answered."""
        notify("STOPPING=1")
        await super().shutdown(sockets)


def _protocol(settings: Settings) -> type[H11Protocol]:
    seconds = settings.limits.body_seconds

    class Impatient(H11Protocol):
        """Hangs up on a client that does not get a request's head across in time (slow loris)."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._deadline: asyncio.TimerHandle | None = self.loop.call_later(seconds, self._hang_up)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._asked():
                self._forget_deadline()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(seconds, self._hang_up)

        def _asked(self) -> bool:
            """Whether a request is being answered: uvicorn makes the cycle once the whole head has come in."""
            cycle = getattr(self, "cycle", None)
            return cycle is not None and not cycle.response_complete

        def _forget_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _hang_up(self) -> None:
            if not self._asked() and not self.transport.is_closing():
                self.transport.close()

        def shutdown(self) -> None:
            super().shutdown()
            # An idle TLS client does not answer our goodbye; without this the whole server would wait for it.
            if self.transport.is_closing():
                self.loop.call_later(1, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_deadline()
            super().connection_lost(exc)

    return Impatient


def logging_to_stderr() -> None:
    """One line an event; the journal adds the time."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for noisy in ("alembic", "uvicorn.error", "sqlalchemy"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


