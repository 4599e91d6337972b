"""The agent's local API: JSON over HTTP on a unix socket, for the portal and the command line.

Who may connect is decided by the socket's mode: its owner, and members of the group `appliance-local`.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from appliance_protocol.evidence import EvidenceCause
from appliance_protocol.local_models import AgentStatus
from appliance_protocol.verdict import CheckResult
from compliance_agent.checking import CheckRunner
from compliance_agent.checks.base import Clock
from compliance_agent.database import StoreError
from compliance_agent.ledger import Ledger
from compliance_agent.offload import DeadlineMissed, on_disk
from compliance_agent.state import State
from compliance_agent.store import Store

log = logging.getLogger(__name__)

GROUP = "appliance-local"
MAX_LIMIT = 1000
DAY = 86400.0
Endpoint = Callable[[Request], Awaitable[Any]]


class Served(Protocol):
    """What the API may ask of the agent."""

    state: State
    store: Store
    ledger: Ledger
    runner: CheckRunner
    clock: Clock

    def status(self) -> AgentStatus:
        """How the agent is doing."""

    async def run_checks(self, cause: EvidenceCause) -> list[CheckResult]:
        """Run every check now."""


class ApiError(Exception):
    """An answer with a sentence: `{"error": …}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the service has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class LocalApi:
    """Serves the API on a unix socket, in the service's own loop."""

    def __init__(self, agent: Served, path: Path) -> None:
        self._path = path
        self._app = application(agent)
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def tend(self) -> None:
        """Start serving, and again should it ever end. Raises `OSError` when the socket cannot be made."""
        if self._serving is not None and not self._serving.done():
            return
        if self._serving is not None:
            log.warning("the local API ended and is started again: %r", self._serving)
        listener = listen(self._path)
        config = uvicorn.Config(
            self._app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            loop="none",
            server_header=False,
            limit_concurrency=32,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="local-api")

    async def stop(self) -> None:
        """End serving."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait([self._serving], timeout=2)
        with contextlib.suppress(OSError):
            self._path.unlink()


def listen(path: Path) -> socket.socket:
    """A listening unix socket with mode 0660 and the group of the appliance's own services. Raises `OSError`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        with contextlib.suppress(KeyError, PermissionError):  # no such group: only the owner may connect
            os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
            path.chmod(0o660)
        listener.listen(32)
    except BaseException:
        listener.close()
        raise
    return listener


def application(agent: Served) -> Starlette:
    """The routes."""
    endpoints = _Endpoints(agent)
    routes = [
        ("GET", "/v1/status", endpoints.status),
        ("GET", "/v1/checks", endpoints.checks),
        ("POST", "/v1/checks/run", endpoints.run_checks),
        ("GET", "/v1/checks/{check_id}/history", endpoints.history),
        ("GET", "/v1/evidence", endpoints.evidence),
        ("GET", "/v1/evidence/{sequence:int}", endpoints.bundle),
        ("GET", "/v1/score/history", endpoints.scores),
    ]
    return Starlette(
        routes=[Route(path, _answering(endpoint), methods=[method]) for method, path, endpoint in routes],
        exception_handlers={HTTPException: _http_error},
    )


class _Endpoints:
    """What each route answers; a value that msgspec can encode."""

    def __init__(self, agent: Served) -> None:
        self._agent = agent

    async def status(self, request: Request) -> Any:
        return self._agent.status()

    async def checks(self, request: Request) -> Any:
        return self._agent.state.results()

    async def run_checks(self, request: Request) -> Any:
        return await self._agent.run_checks(EvidenceCause.CHANGE)

    async def history(self, request: Request) -> Any:
        check_id = request.path_params["check_id"]
        if check_id not in {check.id for check in self._agent.runner.checks}:
            raise ApiError(404, f"there is no check {check_id[:80]!r}")
        return await on_disk(self._agent.store.history, check_id, _number(request, "limit", 100, 1, MAX_LIMIT))

    async def evidence(self, request: Request) -> Any:
        before = _number(request, "before", 1 << 53, 1, 1 << 53)
        limit = _number(request, "limit", 100, 1, MAX_LIMIT)
        return await on_disk(self._agent.ledger.entries, self._device(), before, limit)

    async def bundle(self, request: Request) -> Any:
        sequence = request.path_params["sequence"]
        if sequence < 1 << 53:
            envelope = await on_disk(self._agent.ledger.envelope, self._device(), sequence)
            if envelope is not None:
                return envelope
        raise ApiError(404, f"bundle {sequence} is not kept here")

    async def scores(self, request: Request) -> Any:
        days = _number(request, "days", 30, 1, 3650)
        return await on_disk(self._agent.store.scores, self._agent.clock.read().wall - days * DAY)

    def _device(self) -> str:
        enrolment = self._agent.state.enrolment
        return enrolment.device_id if enrolment is not None else ""


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 17 and least <= int(text) <= most):
        raise ApiError(400, f"{name} must be a number from {least} to {most}")
    return int(text)


def _answering(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return _json(await endpoint(request))
        except ApiError as error:
            return _json({"error": str(error)}, error.status)
        except (StoreError, DeadlineMissed) as error:
            return _json({"error": str(error)}, 503)
        except Exception as error:
            log.exception("%s %s", request.method, request.url.path)
            return _json({"error": f"the agent could not answer: {error!r}; see its journal"}, 500)

    return answer


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _json({"error": f"{request.method} {request.url.path[:200]}: HTTP {status}"}, status)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
