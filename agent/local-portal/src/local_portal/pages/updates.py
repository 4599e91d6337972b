"""The two system images, what the updater is doing, and what it has done."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_portal.web import portal_of, render


async def updates(request: Request) -> Response:
    """Status and history, straight from the updater's files: readable when everything else is down."""
    updater = portal_of(request).updater
    return render(request, "updates.html", status=updater.status(), history=updater.history())


ROUTES = [Route("/updates", updates)]
