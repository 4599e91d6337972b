"""The pages people look at; none of them changes anything."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from fastapi import APIRouter
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from appliance_protocol.keys import PublicKey
from appliance_protocol.orders import OrderType
from appliance_protocol.verdict import CheckResult
from central_command import audit, fleet, incidents, intake, orders, sites, verification
from central_command.accounts import Role
from central_command.checkins import last_report
from central_command.dashboard.access import by_cookie
from central_command.dashboard.render import page
from central_command.fleet import DeviceView, FleetError, Liveness
from central_command.foreign import clean
from central_command.problems import ProblemError
from central_command.services import Services
from central_command.sessions import Session

_PER_PAGE = 50
_SHOWN = 500
"""Devices on one page; the filter finds the others."""
_MAX_SEQUENCE = 2**53
_OFFERED = [kind for kind in OrderType if kind is not OrderType.NIXOS_REBUILD]
"""Orders that a form suffices for; a rebuild takes a store path or a flake, by command line or API."""


def router(services: Services) -> APIRouter:
    """Every page that is only read."""
    pages = Pages(services)
    routes = APIRouter(include_in_schema=False)
    for path, endpoint in (
        ("/", pages.home), ("/devices", pages.devices), ("/devices/{device_id}", pages.device),
        ("/devices/{device_id}/evidence", pages.evidence),
        ("/devices/{device_id}/evidence/{sequence}", pages.bundle),
        ("/devices/{device_id}/evidence.jsonl", pages.export),
        ("/sites", pages.sites), ("/audit", pages.audit),
    ):
        routes.add_route(path, endpoint, methods=["GET"])
    return routes


class Pages:
    """The pages over one running server."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings

    async def home(self, request: Request) -> Response:
        """The fleet is the home page."""
        return RedirectResponse("/devices", 303)

    async def devices(self, request: Request) -> Response:
        """Every device with how it is, filtered by text, site and liveness."""
        session = await by_cookie(request, self._services)
        asked = {name: clean(request.query_params.get(name, ""), 100) for name in ("text", "site_id", "state")}
        async with self._services.database.read() as connection:
            found = await fleet.every(
                connection, self._settings, text=asked["text"], site_id=asked["site_id"], state=asked["state"],
                limit=_SHOWN,
            )
            counts = await fleet.counts(connection, self._settings)
            places = await sites.every(connection)
        total = sum(counts.values()) - counts[Liveness.RETIRED]
        return page(
            request, "devices.html", session, devices=found, total=total, counts=counts, sites=places,
            asked=asked, states=list(Liveness), cut=len(found) if len(found) == _SHOWN else 0,
        )

    async def device(self, request: Request) -> Response:
        """One device: who it is, how it is, what its newest evidence says, its orders and its chain."""
        session = await by_cookie(request, self._services)
        return await device_page(request, self._services, session)

    async def evidence(self, request: Request) -> Response:
        """The device's bundles, a page at a time."""
        session = await by_cookie(request, self._services)
        before = _number(request.query_params.get("before"))
        async with self._services.database.read() as connection:
            view = await _find(connection, self._services, request.path_params["device_id"])
            rows = await intake.rows(connection, view.id, before=before, limit=_PER_PAGE)
        older = rows[-1].sequence if len(rows) == _PER_PAGE and rows[-1].sequence > 1 else None
        return page(request, "evidence.html", session, device=view, rows=rows, older=older)

    async def bundle(self, request: Request) -> Response:
        """One bundle's envelope as it was signed, as a download."""
        await by_cookie(request, self._services)
        sequence = _number(request.path_params["sequence"])
        async with self._services.database.read() as connection:
            view = await _find(connection, self._services, request.path_params["device_id"])
            text = None if sequence is None else await intake.envelope_text(connection, view.id, sequence)
        if text is None:
            raise ProblemError(404, "There is no such bundle.")
        return Response(text, media_type="application/json", headers=_download(f"{view.id}-{sequence}.json"))

    async def export(self, request: Request) -> Response:
        """The whole chain as JSON lines, for an auditor's own verifier."""
        await by_cookie(request, self._services)
        async with self._services.database.read() as connection:
            view = await _find(connection, self._services, request.path_params["device_id"])

        async def lines() -> AsyncIterator[str]:
            async with self._services.database.read() as connection:
                async for line in verification.export(connection, view.id):
                    yield line

        return StreamingResponse(lines(), media_type="application/jsonl", headers=_download(f"{view.id}.jsonl"))

    async def sites(self, request: Request) -> Response:
        """Clinics and enrolment codes."""
        session = await by_cookie(request, self._services)
        return await sites_page(request, self._services, session)

    async def audit(self, request: Request) -> Response:
        """Who did what."""
        session = await by_cookie(request, self._services, Role.OPERATOR)
        async with self._services.database.read() as connection:
            before = _number(request.query_params.get("before"))
            entries = await audit.entries(connection, before=before, limit=_PER_PAGE)
        older = entries[-1].id if len(entries) == _PER_PAGE else None
        return page(request, "audit.html", session, entries=entries, older=older)


async def device_page(request: Request, services: Services, session: Session, error: str = "") -> Response:
    """The device page, with the reason why a form on it was not accepted."""
    async with services.database.read() as connection:
        view = await _find(connection, services, request.path_params["device_id"])
        text = await intake.envelope_text(connection, view.id, view.evidence_sequence)
        rows = await intake.rows(connection, view.id, limit=30)
        given = await orders.of_device(connection, view.id)
        troubles = await incidents.of_device(connection, view.id)
    device_now = time.time() + (view.clock_skew or 0.0)
    newest = intake.newest_bundle(text)
    results = () if newest is None else tuple(sorted(newest.results, key=lambda item: _rank(item, device_now)))
    return page(
        request, "device.html", session, status=400 if error else 200, device=view, report=last_report(view.report),
        bundle=newest, results=results, device_now=device_now, evidence=rows, orders=given, incidents=troubles,
        order_types=_OFFERED, key_id=PublicKey.from_text(view.public_key).key_id, error=error,
        interval=services.settings.checkin_interval,
    )


async def sites_page(
    request: Request, services: Services, session: Session, *, code: str = "", code_site: str = "", error: str = ""
) -> Response:
    """The sites page; `code` is shown this once."""
    async with services.database.read() as connection:
        places = await sites.every(connection)
        listed = await sites.codes(connection)
    return page(
        request, "sites.html", session, status=400 if error else 200, sites=places, codes=listed, now=time.time(),
        code=code, code_site=code_site, error=error, lifetime=services.settings.code_lifetime,
    )


def _rank(result: CheckResult, now: float) -> tuple[int, str]:
    """What needs a person first: failed, then what could not be told, then the rest."""
    if not result.verdict.counts:
        return 3, result.title
    if result.verdict.conforms:
        return (1 if result.stale(now) else 2), result.title
    return (0 if result.verdict == "fail" else 1), result.title


async def _find(connection: AsyncConnection, services: Services, device_id: str) -> DeviceView:
    try:
        return await fleet.find(connection, services.settings, device_id)
    except FleetError as error:
        raise ProblemError(404, str(error)) from error


def _number(text: str | None) -> int | None:
    if not text or len(text) > 16 or not text.isascii() or not text.isdigit():
        return None
    return min(int(text), _MAX_SEQUENCE)


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
