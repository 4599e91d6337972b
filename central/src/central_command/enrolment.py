"""A device joins a site: one code, one device, even when two ask in the same instant or a reply is lost."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from appliance_protocol.device_api import EnrolmentRequest
from appliance_protocol.envelope import Envelope, EnvelopeError, PayloadType, open_as, peek
from appliance_protocol.keys import KeyFormatError, PublicKey
from appliance_protocol.wire import WireError
from central_command import audit
from central_command.audit import Actor
from central_command.database import Database
from central_command.foreign import clean, normalise_macs
from central_command.identifiers import fingerprint, new_id, normalise_code
from central_command.tables import devices, enrolment_codes, sites


class EnrolmentRefused(ValueError):
    """An enrolment that is not carried out. What is wrong with a code is told to the log, not to the asker."""


@dataclass(frozen=True)
class Enrolled:
    """Who the device is now. `again` when it was enrolled before and only asked once more."""

    device_id: str
    site_id: str
    site_name: str
    again: bool


def read(envelope: Envelope) -> EnrolmentRequest:
    """The request, once it is shown to be signed by the key that it names (proof of possession).

    Raises `EnvelopeError` or `WireError`.
    """
    try:
        key = PublicKey.from_text(peek(envelope, EnrolmentRequest).public_key)
    except KeyFormatError as error:
        raise WireError(f"EnrolmentRequest: {error}") from error
    try:
        # The key's one canonical text is what is stored and looked up: base64 has several for the same bytes.
        return replace(open_as(envelope, PayloadType.ENROLMENT, [key], EnrolmentRequest), public_key=key.text)
    except EnvelopeError as error:
        raise EnvelopeError("the request is not signed by the key that it names") from error


async def enrol(database: Database, request: EnrolmentRequest, address: str) -> Enrolled:
    """Use the request's code for its key. The same key with the code it used gets the same answer again.

    Raises `EnrolmentRefused`.
    """
    code = normalise_code(request.code)
    if code is None:
        raise EnrolmentRefused("not a code: 16 characters in groups of four, as shown when it was made")
    try:
        async with database.write() as connection:
            return await _enrol(connection, request, fingerprint(code), address)
    except IntegrityError as error:
        # Two requests with one key in the same instant: the other one has won, and its answer is ours as well.
        async with database.write() as connection:
            known = await _device_of(connection, request)
            if known is None:
                raise EnrolmentRefused("another enrolment came in between; try again") from error
            return await _enrol(connection, request, fingerprint(code), address)


async def _enrol(connection: AsyncConnection, request: EnrolmentRequest, code_hash: str, address: str) -> Enrolled:
    query = (
        sa.select(enrolment_codes, sites.c.name.label("site_name"))
        .join(sites, sites.c.id == enrolment_codes.c.site_id).where(enrolment_codes.c.code_hash == code_hash)
        .with_for_update(of=enrolment_codes)
    )
    code = (await connection.execute(query)).mappings().first()
    if code is None:
        raise EnrolmentRefused("no such code")
    known = await _device_of(connection, request)
    if known is not None and known["state"] != "active":
        raise EnrolmentRefused(f"device {known['id']} is {known['state']}")
    if code["used_at"] is not None:
        if known is None or code["device_id"] != known["id"]:
            raise EnrolmentRefused(f"code {code['id']} was used by {code['device_id']}")
        return Enrolled(known["id"], known["site_id"], known["site_name"], again=True)
    if time.time() >= code["expires_at"]:
        raise EnrolmentRefused(f"code {code['id']} has expired")
    device_id = await (_insert(connection, request, code) if known is None else _move(connection, known, code))
    await _use(connection, code["id"], device_id)
    what = "device.enrol" if known is None else "device.enrol-again"
    await audit.record(connection, Actor(f"device:{device_id}", address), what, device_id, f"into {code['site_name']}")
    return Enrolled(device_id, code["site_id"], code["site_name"], again=known is not None)


async def _device_of(connection: AsyncConnection, request: EnrolmentRequest) -> RowMapping | None:
    query = (
        sa.select(devices.c.id, devices.c.state, devices.c.site_id, sites.c.name.label("site_name"))
        .join(sites, sites.c.id == devices.c.site_id).where(devices.c.public_key == request.public_key)
    )
    return (await connection.execute(query)).mappings().first()


async def _insert(connection: AsyncConnection, request: EnrolmentRequest, code: RowMapping) -> str:
    device_id = new_id("dev")
    row = {
        "id": device_id, "site_id": code["site_id"], "public_key": request.public_key, "enrolled_at": time.time(),
        "hostname": clean(request.hostname, 120), "vendor": clean(request.hardware.vendor, 120),
        "product": clean(request.hardware.product, 120), "serial": clean(request.hardware.serial, 120),
        "mac_addresses": json.dumps(normalise_macs(request.mac_addresses)),
        "image_id": clean(request.release.id, 80), "version": clean(request.release.version, 80),
        "digest": clean(request.release.digest, 200), "agent_version": clean(request.agent_version, 80),
    }
    await connection.execute(sa.insert(devices).values(**row))
    return device_id


async def _move(connection: AsyncConnection, known: RowMapping, code: RowMapping) -> str:
    """A known device with a fresh code keeps its id and its evidence, and goes to the code's site."""
    move = sa.update(devices).where(devices.c.id == known["id"]).values(site_id=code["site_id"])
    await connection.execute(move)
    return str(known["id"])


async def _use(connection: AsyncConnection, code_id: str, device_id: str) -> None:
    use = (
        sa.update(enrolment_codes).where(enrolment_codes.c.id == code_id, enrolment_codes.c.used_at.is_(None))
        .values(used_at=time.time(), device_id=device_id)
    )
    if (await connection.execute(use)).rowcount != 1:
        raise EnrolmentRefused("the code was used in between")
