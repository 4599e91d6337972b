"""The same for scripts: JSON under /api/v1, by API token, or by the browser's session with its CSRF token."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, Request
from sqlalchemy.ext.asyncio import AsyncConnection

from central_command import fleet, incidents, intake, orders, sites
from central_command.accounts import Role
from central_command.audit import Actor
from central_command.dashboard import access
from central_command.fleet import DeviceView, FleetError, describe
from central_command.foreign import is_id
from central_command.orders import OrderConflict, OrderError, OrderView, UnknownOrder
from central_command.problems import ProblemError
from central_command.services import Services
from central_command.sessions import Session
from central_command.sites import SiteError


@dataclass
class NewOrder:
    """An order for one device. `lifetime` is how many seconds it may wait for the device."""

    type: str
    parameters: dict[str, str] = field(default_factory=dict)
    lifetime: float | None = None


@dataclass
class NewSite:
    """A clinic."""

    name: str


@dataclass
class NewCode:
    """An enrolment code for one device of a clinic, by the clinic's name or id."""

    site: str
    label: str = ""


@dataclass
class Assignment:
    """The release that should run; empty takes the assignment back."""

    version: str


class Api:
    """What the routes share: the services, and who may call."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def caller(self, needed: Role) -> Any:
        """A dependency: the session, if its role is enough."""

        async def authorise(request: Request) -> Session:
            return await access.by_token_or_cookie(request, self.services, needed)

        return Depends(authorise)

    async def device(self, connection: AsyncConnection, device_id: str) -> DeviceView:
        """The device, or the problem 404."""
        try:
            return await fleet.find(connection, self.services.settings, device_id)
        except FleetError as error:
            raise ProblemError(404, str(error)) from error


def router(services: Services) -> APIRouter:
    """All routes below /api/v1."""
    routes = APIRouter(prefix="/api/v1", tags=["operator"])
    api = Api(services)
    _reading(routes, api)
    _ordering(routes, api)
    _founding(routes, api)
    return routes


def _reading(routes: APIRouter, api: Api) -> None:
    reader = api.caller(Role.READONLY)
    database = api.services.database

    @routes.get("/devices")
    async def list_devices(
        text: str = "", site_id: str = "", state: str = "", session: Session = reader
    ) -> list[dict[str, Any]]:
        """The fleet."""
        wanted = site_id if is_id(site_id) else ""
        async with database.read() as connection:
            found = await fleet.every(connection, api.services.settings, text=text, site_id=wanted, state=state)
        return [describe(view) for view in found]

    @routes.get("/devices/{device_id}")
    async def show_device(device_id: str, session: Session = reader) -> dict[str, Any]:
        """One device with its open incidents."""
        async with database.read() as connection:
            view = await api.device(connection, device_id)
            troubles = await incidents.of_device(connection, view.id)
        return {**describe(view), "incidents": [asdict(item) for item in troubles]}

    @routes.get("/devices/{device_id}/evidence")
    async def list_evidence(device_id: str, session: Session = reader) -> list[dict[str, Any]]:
        """The newest bundles, without their contents."""
        async with database.read() as connection:
            view = await api.device(connection, device_id)
            return [asdict(row) for row in await intake.rows(connection, view.id, limit=200)]

    @routes.get("/devices/{device_id}/orders")
    async def list_orders(device_id: str, session: Session = reader) -> list[dict[str, Any]]:
        """The newest orders."""
        async with database.read() as connection:
            view = await api.device(connection, device_id)
            return [asdict(order) for order in await orders.of_device(connection, view.id, limit=100)]

    @routes.get("/orders/{order_id}")
    async def show_order(order_id: str, session: Session = reader) -> dict[str, Any]:
        """One order."""
        async with database.read() as connection:
            return asdict(await _order(connection, order_id))


def _ordering(routes: APIRouter, api: Api) -> None:
    operator = api.caller(Role.OPERATOR)
    services = api.services

    @routes.post("/devices/{device_id}/orders", status_code=201)
    async def create_order(
        device_id: str, asked: NewOrder, request: Request, session: Session = operator
    ) -> dict[str, Any]:
        """Give a device an order."""
        try:
            async with services.database.write() as connection:
                made = await orders.create(
                    connection, access.actor(request, session), services.key, services.settings, device_id, asked.type,
                    asked.parameters, asked.lifetime,
                )
        except UnknownOrder as error:
            raise ProblemError(404, str(error)) from error
        except OrderConflict as error:
            raise ProblemError(409, str(error)) from error
        except OrderError as error:
            raise ProblemError(422, str(error)) from error
        return asdict(made)

    @routes.put("/devices/{device_id}/assignment")
    async def assign(
        device_id: str, asked: Assignment, request: Request, session: Session = operator
    ) -> dict[str, Any]:
        """Say which release a device should run."""
        async with services.database.write() as connection:
            view = await api.device(connection, device_id)
            try:
                await fleet.assign(connection, access.actor(request, session), asked.version, device=view.id)
            except FleetError as error:
                raise ProblemError(422, str(error)) from error
            return describe(await api.device(connection, view.id))


def _founding(routes: APIRouter, api: Api) -> None:
    services = api.services
    reader, operator, admin = (api.caller(role) for role in Role)

    @routes.get("/sites")
    async def list_sites(session: Session = reader) -> list[dict[str, Any]]:
        """All clinics."""
        async with services.database.read() as connection:
            return [asdict(site) for site in await sites.every(connection)]

    @routes.post("/sites", status_code=201)
    async def create_site(
        asked: NewSite, request: Request, session: Session = admin
    ) -> dict[str, Any]:
        """A new clinic."""
        try:
            async with services.database.write() as connection:
                return asdict(await sites.create(connection, access.actor(request, session), asked.name))
        except SiteError as error:
            raise ProblemError(409, str(error)) from error

    @routes.post("/enrolment-codes", status_code=201)
    async def create_code(
        asked: NewCode, request: Request, session: Session = operator
    ) -> dict[str, Any]:
        """A code for one device; this answer is the only place that shows it."""
        who: Actor = access.actor(request, session)
        try:
            async with services.database.write() as connection:
                site = await sites.find(connection, asked.site.replace("\0", "")[:120])
                code, text = await sites.create_code(
                    connection, who, site, services.settings.code_lifetime, asked.label
                )
        except SiteError as error:
            raise ProblemError(404, str(error)) from error
        return {"code": text, "id": code.id, "site_id": site.id, "site_name": site.name,
                "expires_at": code.expires_at, "state": code.state(time.time())}


async def _order(connection: AsyncConnection, order_id: str) -> OrderView:
    try:
        return await orders.find(connection, order_id if is_id(order_id) else "")
    except UnknownOrder as error:
        raise ProblemError(404, str(error)) from error
