"""What people change: every request here carries the session's CSRF token and comes from our own pages."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from central_command import accounts, fleet, incidents, orders, sessions, sites
from central_command.accounts import Role
from central_command.dashboard import access
from central_command.dashboard.pages import device_page, sites_page
from central_command.dashboard.render import page
from central_command.fleet import FleetError
from central_command.foreign import is_id
from central_command.orders import OrderError
from central_command.problems import ProblemError
from central_command.services import Services
from central_command.sites import SiteError

_WRONG = "Wrong name or password, or the account is locked for a while after too many attempts."


def router(services: Services) -> APIRouter:
    """Login, and every form."""
    forms = Forms(services)
    routes = APIRouter(include_in_schema=False)
    routes.add_route("/login", forms.show_login, methods=["GET"])
    for path, endpoint in (
        ("/login", forms.login), ("/logout", forms.logout), ("/devices/{device_id}/orders", forms.order),
        ("/devices/{device_id}/assignment", forms.assign_device),
        ("/devices/{device_id}/incidents/{incident_id}", forms.resolve),
        ("/devices/{device_id}/retirement", forms.retire),
        ("/sites", forms.create_site), ("/sites/{site_id}/codes", forms.create_code),
        ("/sites/{site_id}/assignment", forms.assign_site),
    ):
        routes.add_route(path, endpoint, methods=["POST"])
    return routes


class Forms:
    """The forms over one running server."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def show_login(self, request: Request) -> Response:
        """The login page."""
        target = _local(request.query_params.get("next", ""))
        return page(request, "login.html", None, error="", target=target, name="")

    async def login(self, request: Request) -> Response:
        """Name and password for a session. Failures cost the address and the account."""
        settings, address = self._services.settings, access.address(request)
        access.require_same_origin(request, settings)
        fields = await access.form(request)
        self._services.limiters.login.exhausted(address)
        name, password = fields.get("name", "").strip().lower(), fields.get("password", "")
        target = _local(fields.get("next", ""))
        user = await accounts.authenticate(self._services.database, settings, name, password, address)
        if user is None:
            self._services.limiters.login.wait(address)
            return page(request, "login.html", None, status=401, error=_WRONG, target=target, name=name[:40])
        async with self._services.database.write() as connection:
            token = await sessions.begin(connection, settings, user, address)
        response = RedirectResponse(target, 303)
        access.set_cookie(response, settings, token)
        return response

    async def logout(self, request: Request) -> Response:
        """End the session."""
        session, _ = await access.submitted(request, self._services, Role.READONLY)
        async with self._services.database.write() as connection:
            await sessions.end(connection, session)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(
            access.cookie_name(self._services.settings), path="/", secure=self._services.settings.secure
        )
        return response

    async def order(self, request: Request) -> Response:
        """Give a device an order."""
        session, fields = await access.submitted(request, self._services, Role.OPERATOR)
        device_id, version = request.path_params["device_id"], fields.get("version", "").strip()
        parameters = {"version": version} if version and fields.get("type") == "update" else {}
        try:
            async with self._services.database.write() as connection:
                await orders.create(
                    connection, access.actor(request, session), self._services.key, self._services.settings, device_id,
                    fields.get("type", ""), parameters,
                )
        except OrderError as error:
            return await device_page(request, self._services, session, error=str(error))
        return RedirectResponse(f"/devices/{device_id}?done=order#orders", 303)

    async def assign_device(self, request: Request) -> Response:
        """Say which release a device should run."""
        session, fields = await access.submitted(request, self._services, Role.OPERATOR)
        device_id = request.path_params["device_id"]
        try:
            async with self._services.database.write() as connection:
                version = fields.get("version", "").strip()
                await fleet.assign(connection, access.actor(request, session), version, device=_id(device_id))
        except FleetError as error:
            return await device_page(request, self._services, session, error=str(error))
        return RedirectResponse(f"/devices/{device_id}?done=assigned", 303)

    async def resolve(self, request: Request) -> Response:
        """Mark an incident as dealt with."""
        session, _ = await access.submitted(request, self._services, Role.OPERATOR)
        device_id, incident_id = _id(request.path_params["device_id"]), _id(request.path_params["incident_id"])
        async with self._services.database.write() as connection:
            if not await incidents.resolve(connection, device_id, incident_id, session.user_name):
                raise ProblemError(404, "There is no such open incident.")
        return RedirectResponse(f"/devices/{device_id}?done=resolved", 303)

    async def retire(self, request: Request) -> Response:
        """Take a device out of the fleet."""
        session, _ = await access.submitted(request, self._services, Role.ADMIN)
        device_id = _id(request.path_params["device_id"])
        try:
            async with self._services.database.write() as connection:
                await fleet.retire(connection, access.actor(request, session), device_id)
        except FleetError as error:
            raise ProblemError(404, str(error)) from error
        return RedirectResponse("/devices?done=retired", 303)

    async def create_site(self, request: Request) -> Response:
        """A new clinic."""
        session, fields = await access.submitted(request, self._services, Role.ADMIN)
        try:
            async with self._services.database.write() as connection:
                await sites.create(connection, access.actor(request, session), fields.get("name", ""))
        except SiteError as error:
            return await sites_page(request, self._services, session, error=str(error))
        return RedirectResponse("/sites?done=site", 303)

    async def create_code(self, request: Request) -> Response:
        """A code for one device. The page that answers is the only one that ever shows it."""
        session, fields = await access.submitted(request, self._services, Role.OPERATOR)
        try:
            async with self._services.database.write() as connection:
                site = await sites.find(connection, _id(request.path_params["site_id"]))
                lifetime = self._services.settings.code_lifetime
                who = access.actor(request, session)
                _, text = await sites.create_code(connection, who, site, lifetime, fields.get("label", ""))
        except SiteError as error:
            return await sites_page(request, self._services, session, error=str(error))
        return await sites_page(request, self._services, session, code=text, code_site=site.name)

    async def assign_site(self, request: Request) -> Response:
        """Say which release the devices of a clinic should run."""
        session, fields = await access.submitted(request, self._services, Role.OPERATOR)
        site_id = _id(request.path_params["site_id"])
        try:
            async with self._services.database.write() as connection:
                version = fields.get("version", "").strip()
                await fleet.assign(connection, access.actor(request, session), version, site=site_id)
        except FleetError as error:
            return await sites_page(request, self._services, session, error=str(error))
        return RedirectResponse("/sites?done=assigned", 303)


def _id(text: str) -> str:
    if not is_id(text):
        raise ProblemError(404, "There is no such thing here.")
    return text


def _local(target: str) -> str:
    """A page of ours to go to after the login; anything that could lead elsewhere becomes the home page."""
    good = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if good and target.isascii() and len(target) < 500 else "/devices"
