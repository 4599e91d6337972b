"""What one running server shares between its requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass

import sqlalchemy as sa

from appliance_protocol.keys import PrivateKey, PublicKey
from central_command import incidents, orders, sessions
from central_command.checkins import CheckInDesk
from central_command.database import UNAVAILABLE, Database
from central_command.limits import RateLimiter
from central_command.settings import Settings
from central_command.tables import devices

SWEEP_SECONDS = 30
_QUARTER = 900
log = logging.getLogger(__name__)


@dataclass
class Limiters:
    """The rates of `Settings.limits`, kept in this process's memory."""

    address: RateLimiter
    device: RateLimiter
    enrolment: RateLimiter
    login: RateLimiter
    strangers: RateLimiter
    """How often an unverified message may leave a trace on a device's page."""


class Services:
    """The database, the key, the check-in desk and the limits. `run` is the housekeeping beside the requests."""

    def __init__(self, settings: Settings, database: Database, key: PrivateKey) -> None:
        self.settings = settings
        self.database = database
        self.key = key
        self.desk = CheckInDesk(database, settings)
        given = settings.limits
        self.limiters = Limiters(
            address=RateLimiter(given.address_rate, given.address_burst),
            device=RateLimiter(given.device_rate, given.device_burst),
            enrolment=RateLimiter(given.enrolment_failures / _QUARTER, given.enrolment_failures),
            login=RateLimiter(given.login_failures / _QUARTER, given.login_failures),
            strangers=RateLimiter(1 / 60, 1),
        )
        self._keys: OrderedDict[str, PublicKey] = OrderedDict()

    async def device_key(self, device_id: str) -> PublicKey | None:
        """The key of an enrolled device; kept in memory, because a device's key never changes."""
        known = self._keys.get(device_id)
        if known is not None:
            return known
        query = sa.select(devices.c.public_key).where(devices.c.id == device_id)
        async with self.database.read() as connection:
            text = (await connection.execute(query)).scalar_one_or_none()
        if text is None:
            return None
        self._keys[device_id] = PublicKey.from_text(text)
        if len(self._keys) > 200_000:
            self._keys.popitem(last=False)
        return self._keys[device_id]

    async def note_stranger(self, device_id: str, detail: str) -> None:
        """Somebody without the device's key spoke in its name: note it, at most once a minute a device."""
        if self.limiters.strangers.wait(device_id) > 0:
            return
        async with self.database.write() as connection:
            kind = incidents.IncidentKind.BAD_SIGNATURE.value
            await incidents.record(connection, device_id, kind, "", detail)

    async def run(self) -> None:
        """Bring orders to their end and forget old sessions, until cancelled."""
        while True:
            with contextlib.suppress(*UNAVAILABLE):
                await self.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """One round of housekeeping."""
        async with self.database.write() as connection:
            ended = await orders.sweep(connection, time.time())
            await sessions.prune(connection, self.settings, time.time())
        if ended:
            log.info("%d orders ended without an answer", ended)

    async def close(self) -> None:
        """Finish what is being written and let go of the database."""
        await self.desk.close()
        await self.database.close()
