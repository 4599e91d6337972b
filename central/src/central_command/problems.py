"""Errors as RFC 9457 problem details, for devices, scripts and people alike."""

from __future__ import annotations

import http
import json
import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from appliance_protocol.wire import WireError
from central_command.database import UNAVAILABLE, is_unavailable
from central_command.foreign import clean

MEDIA_TYPE = "application/problem+json"
log = logging.getLogger(__name__)


class ProblemError(Exception):
    """A request that is not carried out; becomes a problem document. `more` are extension members."""

    def __init__(
        self, status: int, detail: str, *, title: str = "", headers: dict[str, str] | None = None, **more: object
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = clean(detail, 2000)
        self.title = title or http.HTTPStatus(status).phrase
        self.headers = headers or {}
        self.more = more


def document(error: ProblemError) -> bytes:
    """The problem as JSON."""
    body = {"type": "about:blank", "title": error.title, "status": error.status, "detail": error.detail, **error.more}
    return json.dumps(body).encode()


def response(error: ProblemError) -> Response:
    """The problem as an HTTP response."""
    headers = {"Cache-Control": "no-store", **error.headers}
    return Response(document(error), error.status, headers=headers, media_type=MEDIA_TYPE)


def unavailable() -> ProblemError:
    """What is said while the database is away: nothing was stored, come again."""
    return ProblemError(
        503, "The database cannot be reached. Nothing was stored; send it again later.", headers={"Retry-After": "30"}
    )


def too_many(seconds: float) -> ProblemError:
    """What is said to a client that asks too often."""
    wait = max(1, round(seconds))
    return ProblemError(429, f"Too many requests; wait {wait} s.", headers={"Retry-After": str(wait)})


Renderer = Callable[[Request, ProblemError], Response]


def _plain(_: Request, error: ProblemError) -> Response:
    return response(error)


def install(app: FastAPI, render: Renderer = _plain) -> None:
    """Make every error of `app` a problem document; a failing database is 503, a fault of ours is logged and 500.

    `render` may show the problem to people instead.
    """

    async def on_problem(request: Request, error: Any) -> Response:
        return render(request, error)

    async def on_wire(request: Request, error: Any) -> Response:
        return render(request, ProblemError(422, str(error)))

    async def on_http(request: Request, error: Any) -> Response:
        return render(request, ProblemError(error.status_code, str(error.detail), headers=dict(error.headers or {})))

    async def on_validation(request: Request, error: Any) -> Response:
        found = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5]]
        return render(request, ProblemError(422, "; ".join(found)))

    async def on_database(request: Request, error: Any) -> Response:
        if is_unavailable(error):
            log.error("%s: database unavailable: %s", request.url.path, clean(str(error)))
            return render(request, unavailable())
        raise error

    async def on_fault(request: Request, error: Any) -> Response:
        log.error("%s: fault", request.url.path, exc_info=error)
        return render(request, ProblemError(500, "The server made a mistake and has logged it. Nothing was stored."))

    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(WireError, on_wire)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, on_database)
    app.add_exception_handler(Exception, on_fault)
