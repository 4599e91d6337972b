"""The application: routes, the gate in front of them, error pages."""

from __future__ import annotations

import logging
import sqlite3

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from local_portal.forms import FormError
from local_portal.guard import SAFE_METHODS, Guard
from local_portal.pages import account, compliance, devices, evidence, overview, public, system, updates
from local_portal.portal import Portal
from local_portal.web import SESSION_COOKIE, login_address, preload, problem

_PUBLIC = frozenset({"/healthz", "/login", "/claim", "/ca.crt"})
_log = logging.getLogger(__name__)


class Gate:
    """Nobody sees a page without a session, except the few that must be seen before: everything else is shut."""

    def __init__(self, app: ASGIApp, portal: Portal) -> None:
        self._app = app
        self._portal = portal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        session = None
        cookie = request.cookies.get(SESSION_COOKIE, "")
        if cookie:
            # A page that refreshes itself does not keep a session alive that nobody looks at.
            session = self._portal.sessions.find(cookie, touch="x-refresh" not in request.headers)
        if session and self._portal.store.account(session.account) is None:
            self._portal.sessions.end(session.token)
            session = None
        scope["portal_session"] = session
        path = scope["path"]
        if session or path in _PUBLIC or path.startswith("/static/"):
            await self._app(scope, receive, send)
            return
        await self._turn_away(request)(scope, receive, send)

    def _turn_away(self, request: Request) -> Response:
        if request.scope["method"] not in SAFE_METHODS:
            return PlainTextResponse("Log in first.\n", 403)
        return RedirectResponse(login_address(request) if self._portal.store.claimed() else "/claim", 303)


async def _form_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FormError)
    return problem(request, error.status, "That form could not be taken", str(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = "There is no such page" if error.status_code == 404 else "That did not work"
    detail = str(error.detail) if error.status_code != 404 or error.detail != "Not Found" else (
        "The address may be mistyped, or what it showed is no longer there.")
    return problem(request, error.status_code, title, detail)


async def _store_error(request: Request, error: Exception) -> Response:
    _log.error("the portal's own state cannot be used: %s", error)
    return PlainTextResponse(
        "The portal cannot read or write its own state; the disk may be full or damaged. Please call your provider.\n",
        503)


async def _failure(request: Request, error: Exception) -> Response:
    return PlainTextResponse("Something went wrong inside the portal. It is in the journal. Please try again.\n", 500)


def routes() -> list[BaseRoute]:
    """Every route there is."""
    pages = (public, account, overview, devices, compliance, evidence, updates, system)
    return [route for page in pages for route in page.ROUTES]


def create_app(portal: Portal) -> ASGIApp:
    """The whole application, guarded."""
    preload()
    app = Starlette(
        routes=routes(),
        middleware=[Middleware(Gate, portal=portal)],
        exception_handlers={
            FormError: _form_error, HTTPException: _http_error, sqlite3.Error: _store_error, Exception: _failure,
        },
    )
    app.router.redirect_slashes = False
    app.state.portal = portal
    return Guard(app, portal.own_names)
