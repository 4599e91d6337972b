"""What the appliances talk to: signed envelopes in, signed envelopes out; no cookies, hence nothing to forge."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from appliance_protocol import device_api
from appliance_protocol.device_api import (
    Acknowledgement,
    CheckIn,
    EnrolmentReply,
    EvidenceUpload,
)
from appliance_protocol.envelope import Envelope, EnvelopeError, PayloadType, open_payload, parse, peek, seal
from appliance_protocol.keys import PublicKey
from appliance_protocol.orders import OrderResult
from appliance_protocol.wire import WireError, decode
from central_command import checkins, enrolment, incidents, intake, orders, problems
from central_command.enrolment import EnrolmentRefused
from central_command.foreign import clean, is_id
from central_command.incidents import IncidentKind
from central_command.problems import ProblemError
from central_command.services import Services

PREFIX = "/device/"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sender:
    """The one thing that is read before the signature is checked: whose key to check it with."""

    device_id: str


def create(services: Services) -> FastAPI:
    """The application for everything below `PREFIX`."""
    app = FastAPI(title="Central Command, device side", docs_url=None, redoc_url=None, openapi_url=None)
    problems.install(app)
    desk = DeviceDesk(services)
    for path, endpoint in (
        (device_api.ENROL, desk.enrol), (device_api.CHECKIN, desk.checkin), (device_api.EVIDENCE, desk.evidence),
        (device_api.ORDER_RESULT, desk.order_result),
    ):
        app.router.routes.append(Route(path, endpoint, methods=["POST"]))
    return app


class DeviceDesk:
    """The four things a device can say, each verified before anything is believed."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def enrol(self, request: Request) -> Response:
        """A new device with a one-time code."""
        address = _address(request)
        limiter = self._services.limiters.enrolment
        limiter.exhausted(address)
        try:
            asked = enrolment.read(_parse(await request.body()))
            done = await enrolment.enrol(self._services.database, asked, address)
        except EnrolmentRefused as error:
            limiter.wait(address)
            log.warning("enrolment from %s refused: %s", address, error)
            raise ProblemError(
                403, "The code is not valid: mistyped, used by another device, or expired. Ask for a new one."
            ) from error
        except WireError as error:
            limiter.wait(address)
            raise ProblemError(400, str(error)) from error
        settings = self._services.settings
        reply = EnrolmentReply(
            device_id=done.device_id, site_id=done.site_id, site_name=done.site_name,
            server_keys=(self._services.key.public.text,), server_time=time.time(),
            checkin_interval=settings.checkin_interval,
        )
        return self._reply(reply)

    async def checkin(self, request: Request) -> Response:
        """Once a minute: how the device is; back go its orders."""
        payload, _ = await self._verified(request, PayloadType.CHECKIN)
        said = checkins.checked(decode(payload, CheckIn))
        try:
            return self._reply(await self._services.desk.submit(said, payload))
        except checkins.Replayed as error:
            raise ProblemError(409, f"{error}. Go on with a greater number.", last_number=error.last) from error
        except checkins.DeviceGone as error:
            raise _gone() from error
        except checkins.Overloaded as error:
            raise problems.unavailable() from error

    async def evidence(self, request: Request) -> Response:
        """Bundles for the chain. Answered when they are on the disk."""
        payload, key = await self._verified(request, PayloadType.EVIDENCE_UPLOAD)
        upload = decode(payload, EvidenceUpload)
        opened = await asyncio.to_thread(intake.open_upload, upload, key)
        try:
            async with self._services.database.write() as connection:
                receipt = await intake.take(connection, upload.device_id, opened)
        except checkins.DeviceGone as error:
            raise _gone() from error
        return self._reply(receipt)

    async def order_result(self, request: Request) -> Response:
        """What became of an order; taken once, however often it is sent."""
        payload, _ = await self._verified(request, PayloadType.ORDER_RESULT)
        result = decode(payload, OrderResult)
        try:
            async with self._services.database.write() as connection:
                duplicate = await orders.take_result(connection, result)
        except orders.UnknownOrder as error:
            async with self._services.database.write() as connection:
                detail = f"a result for order {clean(result.order_id, 80)}, which this device never had"
                await incidents.record(connection, result.device_id, IncidentKind.FOREIGN_ORDER.value, "", detail)
            raise ProblemError(404, "This device has no such order; drop the result.") from error
        except orders.OrderError as error:
            raise ProblemError(422, str(error)) from error
        return self._reply(Acknowledgement(result.device_id, duplicate))

    async def _verified(self, request: Request, kind: PayloadType) -> tuple[bytes, PublicKey]:
        """The payload, once it is shown to be signed by the key of the device that it names."""
        self._services.limiters.address.check(_address(request))
        envelope = _parse(await request.body())
        try:
            sender = peek(envelope, _Sender).device_id
        except WireError as error:
            raise ProblemError(400, str(error)) from error
        key = await self._services.device_key(sender) if is_id(sender) else None
        if key is None:
            raise ProblemError(401, "No device of that id is enrolled here. Keep what you have; an operator must look.")
        try:
            payload = open_payload(envelope, kind, [key])
        except EnvelopeError as error:
            if envelope.payloadType != kind.value:
                raise ProblemError(400, str(error)) from error
            await self._services.note_stranger(sender, f"from {_address(request)}: {error}")
            raise ProblemError(401, f"Not signed by the key of {sender}. Keep what you have.") from error
        self._services.limiters.device.check(sender)
        return payload, key

    def _reply(self, model: object) -> Response:
        envelope = seal(model, PayloadType.REPLY, self._services.key)
        # The payload is canonical because it is signed; the envelope around it need only be JSON.
        return Response(
            msgspec.json.encode(envelope), media_type="application/json", headers={"Cache-Control": "no-store"}
        )


def _parse(body: bytes) -> Envelope:
    try:
        return parse(body)
    except EnvelopeError as error:
        raise ProblemError(400, str(error)) from error


def _gone() -> ProblemError:
    return ProblemError(403, "This device has been retired here. Keep what you have; an operator must look.")


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""
