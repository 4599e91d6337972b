"""The local API: JSON over HTTP on a unix socket, for the portal, the agent and the command line."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from appliance_protocol.inventory import DeviceClass, ScanPolicy
from appliance_protocol.wire import Model, WireError, decode
from network_scanner.service import Service
from network_scanner.store import StoreError

GROUP = "appliance-local"
MAX_BODY = 16 * 1024


class ApiError(Exception):
    """An answer that is an error: status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class _PolicyBody:
    policy: ScanPolicy


@dataclass(frozen=True)
class _ClassBody:
    device_class: DeviceClass | None


@dataclass(frozen=True)
class _PauseBody:
    paused: bool
    minutes: int | None = None


Handler = Callable[[Request], Awaitable[Response]]


def answer(model: object, status: int = 200) -> Response:
    """A wire model as JSON."""
    return Response(msgspec.json.encode(model), status, media_type="application/json")


def _guarded(handler: Callable[[Request], Awaitable[Response]]) -> Handler:
    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except ApiError as error:
            return answer({"error": str(error)}, error.status)
        except WireError as error:
            return answer({"error": str(error)}, 400)
        except StoreError as error:
            return answer({"error": str(error)}, 503)

    return guarded


async def _body(request: Request, model: type[Model]) -> Model:
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY:
            raise ApiError(413, f"the body is larger than {MAX_BODY} bytes")
    return decode(raw, model)


def _limit(request: Request, default: int) -> int:
    text = request.query_params.get("limit", str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise ApiError(400, f"limit: {text[:40]!r} is not a number")
    return max(1, min(int(text), 1000))


class Routes:
    """The handlers, on top of a running service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def application(self) -> Starlette:
        """The ASGI application."""
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/v1/status", self.status), ("PUT", "/v1/pause", self.pause),
            ("GET", "/v1/devices", self.devices), ("GET", "/v1/devices/{id}", self.device),
            ("GET", "/v1/devices/{id}/history", self.history), ("PUT", "/v1/devices/{id}/policy", self.policy),
            ("PUT", "/v1/devices/{id}/class", self.device_class), ("POST", "/v1/scans", self.start_scan),
            ("GET", "/v1/scans", self.scans), ("GET", "/v1/scans/{id}", self.scan),
            ("GET", "/v1/events", self.events),
        ]
        return Starlette(
            routes=[Route(path, _guarded(handler), methods=[method]) for method, path, handler in table],
            exception_handlers={404: _no_such_thing, 405: _no_such_thing},
        )

    async def status(self, _: Request) -> Response:
        """GET /v1/status"""
        return answer(self._service.status())

    async def pause(self, request: Request) -> Response:
        """PUT /v1/pause {"paused", "minutes"?}: stop sending at once, or go on."""
        body = await _body(request, _PauseBody)
        if body.minutes is not None and not 1 <= body.minutes <= 7 * 1440:
            raise ApiError(400, "minutes: between 1 and 10080")
        await self._service.pause(body.paused, body.minutes)
        return answer(self._service.status())

    async def devices(self, _: Request) -> Response:
        """GET /v1/devices"""
        assets = self._service.inventory.assets.values()
        return answer([asset.to_device() for asset in sorted(assets, key=lambda item: item.first_seen)])

    async def device(self, request: Request) -> Response:
        """GET /v1/devices/{id}"""
        return answer(self._service.inventory.assets[self._known(request)].to_device())

    async def history(self, request: Request) -> Response:
        """GET /v1/devices/{id}/history?limit="""
        known = self._known(request)
        self._service.save()
        return answer(self._service.store.history(known, _limit(request, 200)))

    async def events(self, request: Request) -> Response:
        """GET /v1/events?limit=: what happened to the network as a whole"""
        self._service.save()
        return answer(self._service.store.history("", _limit(request, 100)))

    async def policy(self, request: Request) -> Response:
        """PUT /v1/devices/{id}/policy {"policy"}"""
        known, body = self._known(request), await _body(request, _PolicyBody)
        return answer(self._service.set_policy(known, body.policy).to_device())

    async def device_class(self, request: Request) -> Response:
        """PUT /v1/devices/{id}/class {"device_class": "..."|null}"""
        known, body = self._known(request), await _body(request, _ClassBody)
        return answer(self._service.set_class(known, body.device_class).to_device())

    async def start_scan(self, _: Request) -> Response:
        """POST /v1/scans: start a scan, or name the running one"""
        reason = self._service.refusal()
        if reason:
            raise ApiError(409, reason)
        return answer(self._service.start_scan(), 202)

    async def scans(self, request: Request) -> Response:
        """GET /v1/scans?limit="""
        stored = self._service.store.scans(_limit(request, 50))
        running = self._service.running
        return answer([*([running] if running else []), *stored])

    async def scan(self, request: Request) -> Response:
        """GET /v1/scans/{id}"""
        wanted, running = request.path_params["id"], self._service.running
        found = running if running and running.id == wanted else self._service.store.scan(wanted[:64])
        if found is None:
            raise ApiError(404, "no such scan")
        return answer(found)

    def _known(self, request: Request) -> str:
        wanted = str(request.path_params["id"])
        if wanted not in self._service.inventory.assets:
            raise ApiError(404, "no such device; it may have been recognised as another one")
        return wanted


async def _no_such_thing(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return answer({"error": f"{request.method} {request.url.path[:120]}: no such resource"}, status)


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the service decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def server(service: Service) -> Server:
    """The API's server; run its `serve(sockets=[…])`."""
    config = uvicorn.Config(
        Routes(service).application(), log_config=None, access_log=False, lifespan="off", loop="asyncio", http="h11",
        ws="none", timeout_graceful_shutdown=3, limit_concurrency=32,
    )
    return Server(config)


def remove(path: Path) -> None:
    """Take away the socket file, if there is one."""
    with contextlib.suppress(OSError):
        path.unlink()


def listen(path: Path) -> socket.socket:
    """The listening socket: mode 0660, group `appliance-local` where that group exists. Raises `OSError`."""
    remove(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        sock.bind(str(path))
    finally:
        os.umask(before)
    with contextlib.suppress(LookupError, PermissionError):
        shutil.chown(path, group=GROUP)
    path.chmod(0o660)
    sock.listen(32)
    return sock
