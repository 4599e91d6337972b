"""What went wrong with a device's messages, once each, however often it happens."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from central_command.foreign import clean
from central_command.identifiers import new_id
from central_command.tables import incidents

MAX_OPEN = 100
"""Different open incidents of one device; whatever comes beyond them is counted on one row, `overflow`."""


class IncidentKind(enum.StrEnum):
    """What happened. The evidence kinds carry the fault's own name after the hyphen."""

    REPLAY = "replayed-checkin"
    BAD_SIGNATURE = "bad-signature"
    FOREIGN_ORDER = "foreign-order"
    EVIDENCE = "evidence"
    OVERFLOW = "overflow"


@dataclass(frozen=True)
class Incident:
    """One thing that went wrong, `times` times. Times are seconds since the epoch."""

    id: str
    device_id: str
    kind: str
    mark: str
    detail: str
    first_at: float
    last_at: float
    times: int
    resolved_at: float | None
    resolved_by: str


async def record(connection: AsyncConnection, device_id: str, kind: str, mark: str, detail: str) -> None:
    """Note an incident; the same `kind` and `mark` again only counts up (and opens it again)."""
    if await _count_again(connection, device_id, kind, mark, detail):
        return
    still_open = sa.select(sa.func.count()).where(incidents.c.device_id == device_id, incidents.c.resolved_at.is_(None))
    if (await connection.execute(still_open)).scalar_one() >= MAX_OPEN:
        kind, mark = IncidentKind.OVERFLOW.value, ""
        if await _count_again(connection, device_id, kind, mark, detail):
            return
    now = time.time()
    row = {
        "id": new_id("inc"), "device_id": device_id, "kind": kind, "mark": clean(mark, 200),
        "detail": clean(detail, 1000), "first_at": now, "last_at": now, "times": 1,
    }
    await connection.execute(sa.insert(incidents).values(**row))


async def _count_again(connection: AsyncConnection, device_id: str, kind: str, mark: str, detail: str) -> bool:
    here = (incidents.c.device_id == device_id, incidents.c.kind == kind, incidents.c.mark == clean(mark, 200))
    news = {
        "times": incidents.c.times + 1, "last_at": time.time(), "detail": clean(detail, 1000), "resolved_at": None,
        "resolved_by": "",
    }
    return (await connection.execute(sa.update(incidents).where(*here).values(**news))).rowcount > 0


async def of_device(connection: AsyncConnection, device_id: str, limit: int = 50) -> list[Incident]:
    """A device's incidents, open ones first, newest first."""
    query = (
        sa.select(incidents).where(incidents.c.device_id == device_id)
        .order_by(incidents.c.resolved_at.is_(None).desc(), incidents.c.last_at.desc()).limit(limit)
    )
    return [Incident(**row) for row in (await connection.execute(query)).mappings()]


async def resolve(connection: AsyncConnection, device_id: str, incident_id: str, who: str) -> bool:
    """Mark an incident as dealt with. Returns whether there was such an open one."""
    query = (
        sa.update(incidents)
        .where(incidents.c.id == incident_id, incidents.c.device_id == device_id, incidents.c.resolved_at.is_(None))
        .values(resolved_at=time.time(), resolved_by=clean(who, 120))
    )
    return (await connection.execute(query)).rowcount > 0
