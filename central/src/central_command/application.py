"""The whole server as one ASGI application: device side, dashboard, operator API, and the rules around them."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance_protocol import device_api
from central_command import device_app, operator_api, problems
from central_command.dashboard import forms, pages, render
from central_command.dashboard.access import LoginNeeded
from central_command.limits import BoundedBody
from central_command.problems import ProblemError
from central_command.services import Services
from central_command.settings import Settings

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def create(services: Services) -> ASGIApp:
    """The application over running services; it closes them when the server stops."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        housekeeping = asyncio.create_task(services.run())
        yield
        housekeeping.cancel()
        await asyncio.gather(housekeeping, return_exceptions=True)
        await services.close()

    app = FastAPI(
        title="Central Command", version="1", lifespan=lifespan, docs_url=None, redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    problems.install(app, render.problem)
    app.add_exception_handler(LoginNeeded, _to_login)
    app.mount("/static", StaticFiles(directory=Path(__file__).with_name("static")))
    app.include_router(operator_api.router(services))
    app.include_router(pages.router(services))
    app.include_router(forms.router(services))

    async def health(_: Request) -> Response:
        await services.database.ping()
        return PlainTextResponse("ok", headers={"Cache-Control": "no-store"})

    app.add_route("/healthz", health, methods=["GET"], include_in_schema=False)
    return _guard(_Doors(app, device_app.create(services)), services.settings)


async def _to_login(_: Request, error: Any) -> Response:
    where = "" if error.target in ("/", "/devices") else "?" + urllib.parse.urlencode({"next": error.target})
    return RedirectResponse(f"/login{where}", 303)


class _Doors:
    """Devices and people come in by different doors: no session, form or page code runs for a device's request."""

    def __init__(self, people: ASGIApp, devices: ASGIApp) -> None:
        self._people = people
        self._devices = devices

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] == "http" and "\0" in scope["path"]:
            # No path of ours has one; older file handlers and databases stumble over it.
            await problems.response(ProblemError(404, "There is no such page."))(scope, receive, send)
            return
        to_device = scope["type"] == "http" and scope["path"].startswith(device_app.PREFIX)
        await (self._devices if to_device else self._people)(scope, receive, send)


def _guard(app: ASGIApp, settings: Settings) -> ASGIApp:
    limits = settings.limits
    sizes = {
        "": limits.form_body_bytes, device_api.ENROL: limits.form_body_bytes,
        device_api.CHECKIN: 4 * limits.form_body_bytes, device_api.ORDER_RESULT: limits.form_body_bytes,
        device_api.EVIDENCE: limits.device_body_bytes,
    }
    return SecurityHeaders(BoundedBody(app, sizes, limits.body_seconds), hsts=settings.secure)


class SecurityHeaders:
    """ASGI middleware: no page of ours runs anything but our own files, is framed, or is guessed at."""

    def __init__(self, app: ASGIApp, *, hsts: bool) -> None:
        self._app = app
        self._headers = {
            "Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
            "Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
            "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
        }
        if hsts:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class. The device side answers machines and goes without."""
        if scope["type"] != "http" or scope["path"].startswith(device_app.PREFIX):
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, with_headers)
