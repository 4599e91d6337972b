"""The running service: sockets, TLS, the pages, and a housekeeping loop that also feeds the watchdog."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sqlite3
import ssl
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from local_portal import console, notify, redirect
from local_portal.app import create_app
from local_portal.certificates import CertificateError
from local_portal.config import Config, parse_listen
from local_portal.connections import PatientProtocol
from local_portal.guard import MAX_HEAD
from local_portal.portal import Portal, build
from local_portal.precompile import precompile

HOUSEKEEPING_SECONDS = 10.0
CONNECTIONS = 200
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; TLS 1.3 has none but good ones."""
_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        # uvicorn raises the signal once more when it has shut down; without a handler of ours that would be the end
        # before everything is put away.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: object) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class Service:
    """Owns the server; `run` returns when it was told to stop."""

    def __init__(self, config: Config) -> None:
        self.portal: Portal = build(config)
        self.port = 443
        self._told = ""

    async def run(self) -> None:
        """Serve until SIGTERM. Raises `CertificateError` or `OSError` when it cannot start."""
        portal = self.portal
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2, "slow"))
        await self._certify()
        handed = notify.listening_sockets()
        secure = handed.get("https") or [self._own_socket()]
        if not handed:
            self.port = secure[0].getsockname()[1]
        server = _Server(self._settings())
        server.config.load()
        assert server.config.ssl is not None
        server.config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        plain = [await redirect.serve(portal.own_names, sock=sock) for sock in handed.get("http", [])]
        self._announce()
        try:
            async with self._housekeeping(server):
                await server.serve(sockets=secure)
        finally:
            notify.notify("STOPPING=1")
            for listener in plain:
                listener.close()
            portal.close()

    def _settings(self) -> uvicorn.Config:
        chain = str(self.portal.certificates.chain)
        return uvicorn.Config(
            create_app(self.portal), http=PatientProtocol, ws="none", lifespan="off", loop="asyncio",
            ssl_certfile=chain, ssl_keyfile=chain, ssl_ciphers=CIPHERS, proxy_headers=False, server_header=False,
            access_log=False, log_config=None, limit_concurrency=CONNECTIONS, h11_max_incomplete_event_size=MAX_HEAD,
            timeout_keep_alive=15, timeout_graceful_shutdown=3, backlog=128,
        )

    def _own_socket(self) -> socket.socket:
        host, port = parse_listen(self.portal.config.listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # With the protocol named, asyncio knows it for TCP and turns Nagle's algorithm off.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        return made

    async def _certify(self) -> str:
        portal = self.portal
        reason = await asyncio.to_thread(portal.certificates.ensure, portal.own_names(), portal.clock.now())
        if reason:
            _log.info("a new server certificate was issued: %s", reason)
        return reason

    def _announce(self) -> None:
        """Put the console's text up, and into standard output (journal and console) when it changed."""
        try:
            changed = console.publish(self.portal, self.port)
        except OSError as error:
            _log.error("%s: the console's text cannot be written: %s", self.portal.config.runtime, error)
            changed = console.text(self.portal, self.port)
        if changed:
            sys.stdout.write(changed)
            sys.stdout.flush()

    @contextlib.asynccontextmanager
    async def _housekeeping(self, server: _Server) -> AsyncIterator[None]:
        task = asyncio.create_task(self._keep_house(server))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep_house(self, server: _Server) -> None:
        """Certificates, console, old sessions; the watchdog is fed by this loop getting round, not by a timer."""
        await server.ready.wait()
        notify.notify("READY=1\nSTATUS=Serving")
        pause = min(HOUSEKEEPING_SECONDS, (notify.watchdog_seconds() or 60.0) / 3)
        while True:
            await self._once(server)
            notify.notify("WATCHDOG=1")
            await asyncio.sleep(pause)

    async def _once(self, server: _Server) -> None:
        try:
            if await self._certify() and server.config.ssl is not None:
                server.config.ssl.load_cert_chain(str(self.portal.certificates.chain))
            self._announce()
            self.portal.sessions.prune()
            self._tell(self.portal.store.tend())
        except CertificateError as error:
            _log.error("%s", error)
        except sqlite3.Error as error:
            _log.error("the portal's own state cannot be used: %s", error)

    def _tell(self, problem: str) -> None:
        """Log what is wrong with the schema, once."""
        if problem != self._told:
            self._told = problem
            _log.error("%s", problem or "the schema is well again")


def run(config: Config) -> None:
    """Run the service until it is told to stop. Raises `CertificateError`, `StoreError` or `OSError`."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    os.umask(0o077)
    precompile(config.runtime)
    asyncio.run(Service(config).run())
