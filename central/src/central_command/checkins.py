"""Check-ins, committed in groups: whatever arrives while one transaction is written goes into the next."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from appliance_protocol.device_api import CheckIn, CheckInReply
from appliance_protocol.envelope import Envelope, parse
from appliance_protocol.evidence import ChainHead
from appliance_protocol.wire import WireError, decode
from central_command import incidents, orders
from central_command.database import Database, is_unavailable
from central_command.foreign import clean
from central_command.incidents import IncidentKind
from central_command.settings import Settings
from central_command.tables import OPEN_STATES, devices, sites
from central_command.tables import orders as orders_table

MAX_BATCH = 200
MAX_WAITING = 5000
_BIGGEST = 2**53 - 1
_RESENT = 120
"""Seconds within which a device may repeat a request whose reply it has not seen."""
log = logging.getLogger(__name__)


class Replayed(ValueError):
    """A check-in whose number is not beyond the last one. `last` is the greatest number taken so far."""

    def __init__(self, number: int, last: int) -> None:
        super().__init__(f"check-in number {number} is not beyond {last}, the last one taken")
        self.last = last


class DeviceGone(ValueError):
    """A device that is not (any more) one of the fleet."""


class Overloaded(RuntimeError):
    """More check-ins wait than can be written in good time."""


@dataclass
class _Waiting:
    checkin: CheckIn
    payload: str
    received_at: float
    done: asyncio.Future[CheckInReply] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def checked(checkin: CheckIn) -> CheckIn:
    """The check-in, once its numbers are such that a database can keep them. Raises `WireError`."""
    numbers = {
        "number": checkin.number, "queue.pending": checkin.queue.pending, "score.counted": checkin.score.counted,
        "score.conforming": checkin.score.conforming, "evidence_head.sequence": checkin.evidence_head.sequence,
    }
    for name, value in numbers.items():
        if not 0 <= value <= _BIGGEST:
            raise WireError(f"CheckIn: {name} is {str(value)[:30]}, which is not between 0 and 2**53 - 1")
    if checkin.score.conforming > checkin.score.counted:
        raise WireError("CheckIn: score.conforming is greater than score.counted")
    if checkin.number == 0:
        raise WireError("CheckIn: number begins at 1")
    return checkin


class CheckInDesk:
    """Takes check-ins and answers each once it is durable. One per process; any number of processes on PostgreSQL."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._queue: deque[_Waiting] = deque()
        self._busy: asyncio.Task[None] | None = None

    async def submit(self, checkin: CheckIn, payload: bytes) -> CheckInReply:
        """Take a verified check-in.

        Raises `Replayed`, `DeviceGone`, `Overloaded`, or what the database raises; nothing is stored then.
        """
        if len(self._queue) >= MAX_WAITING:
            raise Overloaded("too many check-ins wait for the database")
        item = _Waiting(checkin, payload.decode(), time.time())
        self._queue.append(item)
        if self._busy is None or self._busy.done():
            self._busy = asyncio.create_task(self._work())
        return await item.done

    async def close(self) -> None:
        """Wait for what is being written."""
        if self._busy is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._busy

    async def _work(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
            await self._answer(batch)

    async def _answer(self, batch: list[_Waiting]) -> None:
        try:
            async with self._database.write() as connection:
                answers = await _take(connection, batch, self._settings)
        except Exception as error:
            if len(batch) > 1 and not is_unavailable(error):
                # One of them cannot be stored: find out which, so that it does not take the others down with it.
                log.exception("a group of %d check-ins failed; trying one at a time", len(batch))
                for item in batch:
                    await self._answer([item])
                return
            answers = [error] * len(batch)
        for item, answer in zip(batch, answers, strict=True):
            if item.done.done():
                continue
            if isinstance(answer, CheckInReply):
                item.done.set_result(answer)
            else:
                item.done.set_exception(answer)


async def _take(
    connection: AsyncConnection, batch: list[_Waiting], settings: Settings
) -> list[CheckInReply | Exception]:
    ids = sorted({item.checkin.device_id for item in batch})
    rows = await _device_rows(connection, ids)
    waiting = await _open_orders(connection, ids)
    last = {device_id: int(row["last_number"]) for device_id, row in rows.items()}
    updates: dict[str, dict[str, Any]] = {}
    changes: list[dict[str, Any]] = []
    answers: list[CheckInReply | Exception] = []
    for item in batch:
        device_id, number = item.checkin.device_id, item.checkin.number
        row = rows.get(device_id)
        if row is None:
            answers.append(DeviceGone("this device is not enrolled here (any more)"))
        elif number <= last[device_id]:
            replayed = Replayed(number, last[device_id])
            if not (device_id in updates or await _resent(connection, item)):
                await incidents.record(connection, device_id, IncidentKind.REPLAY.value, "", str(replayed))
            answers.append(replayed)
        else:
            last[device_id] = number
            updates[device_id] = _columns(item)
            # Orders go out with the first of a device's check-ins in this group; `pop` leaves none for the others.
            open_orders = waiting.pop(device_id, [])
            deliver, changed = orders.on_checkin(
                open_orders, frozenset(item.checkin.orders_in_progress[:200]), item.received_at, settings.order_attempts
            )
            changes += changed
            answers.append(_reply(item, row, deliver, settings))
    if updates:
        await connection.execute(_UPDATE, list(updates.values()))
    await orders.apply(connection, changes)
    return answers


async def _resent(connection: AsyncConnection, item: _Waiting) -> bool:
    """Whether this is the newest check-in once more, just now: its reply was lost on the way, nobody attacks."""
    query = sa.select(devices.c.report, devices.c.last_seen_at).where(devices.c.id == item.checkin.device_id)
    report, seen_at = (await connection.execute(query)).one()
    return bool(report == item.payload and item.received_at - seen_at < _RESENT)


async def _device_rows(connection: AsyncConnection, ids: list[str]) -> dict[str, RowMapping]:
    query = (
        sa.select(
            devices.c.id, devices.c.last_number, devices.c.evidence_sequence, devices.c.evidence_digest,
            devices.c.assigned_version, sites.c.assigned_version.label("site_version"),
        )
        .join(sites, sites.c.id == devices.c.site_id)
        .where(devices.c.id.in_(ids), devices.c.state == "active").order_by(devices.c.id).with_for_update(of=devices)
    )
    return {row["id"]: row for row in (await connection.execute(query)).mappings()}


async def _open_orders(connection: AsyncConnection, ids: list[str]) -> dict[str, list[RowMapping]]:
    query = (
        sa.select(orders_table)
        .where(orders_table.c.device_id.in_(ids), orders_table.c.state.in_(OPEN_STATES))
        .order_by(orders_table.c.issued_at)
    )
    found: dict[str, list[RowMapping]] = defaultdict(list)
    for row in (await connection.execute(query)).mappings():
        found[row["device_id"]].append(row)
    return found


_COLUMNS = (
    "last_number", "last_seen_at", "clock_skew", "clock_state", "hostname", "image_id", "version", "digest", "slot",
    "agent_version", "conforming", "counted", "queue_pending", "queue_oldest_device_at", "update_state",
    "update_version", "report",
)
_UPDATE = (
    sa.update(devices).where(devices.c.id == sa.bindparam("device"))
    .values({name: sa.bindparam(f"new_{name}") for name in _COLUMNS})
)


def _columns(item: _Waiting) -> dict[str, Any]:
    said = item.checkin
    values = {
        "last_number": said.number, "last_seen_at": item.received_at, "clock_skew": said.clock.wall - item.received_at,
        "clock_state": said.clock.state.value, "hostname": clean(said.hostname, 120),
        "image_id": clean(said.release.id, 80), "version": clean(said.release.version, 80),
        "digest": clean(said.release.digest, 200), "slot": clean(said.slot, 200),
        "agent_version": clean(said.agent_version, 80), "conforming": said.score.conforming,
        "counted": said.score.counted, "queue_pending": said.queue.pending,
        "queue_oldest_device_at": said.queue.oldest_at, "update_state": clean(said.update.state, 40),
        "update_version": clean(said.update.version, 80), "report": item.payload,
    }
    return {"device": said.device_id, **{f"new_{name}": values[name] for name in _COLUMNS}}


def _reply(item: _Waiting, row: RowMapping, deliver: list[str], settings: Settings) -> CheckInReply:
    return CheckInReply(
        device_id=row["id"], answers=item.checkin.number, server_time=time.time(),
        orders=tuple(_envelope(text) for text in deliver),
        assigned_version=row["assigned_version"] or row["site_version"],
        evidence_head=ChainHead(row["evidence_sequence"], row["evidence_digest"]),
        checkin_interval=settings.checkin_interval,
    )


def _envelope(text: str) -> Envelope:
    return parse(text.encode())


def last_report(text: str) -> CheckIn | None:
    """The newest check-in as it was stored; None when there was none yet, or a later version cannot read it."""
    try:
        return decode(text, CheckIn) if text else None
    except WireError:
        return None
