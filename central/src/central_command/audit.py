"""Who did what: a log that the database itself refuses to change."""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from central_command.foreign import clean
from central_command.tables import audit


@dataclass(frozen=True)
class Actor:
    """A person (`anna`), a program (`cli:root`) or a device (`device:dev_…`), and the address it came from."""

    name: str
    address: str = ""


@dataclass(frozen=True)
class AuditEntry:
    """One line of the log. `at` is seconds since the epoch."""

    id: int
    at: float
    actor: str
    action: str
    target: str
    detail: str
    address: str


async def record(connection: AsyncConnection, actor: Actor, action: str, target: str = "", detail: str = "") -> None:
    """Note an action in the transaction that carries it out, so that neither happens without the other."""
    row = {
        "at": time.time(), "actor": clean(actor.name, 120), "action": action, "target": clean(target, 200),
        "detail": clean(detail, 1000), "address": clean(actor.address, 80),
    }
    await connection.execute(sa.insert(audit).values(**row))


async def entries(connection: AsyncConnection, *, before: int | None = None, limit: int = 100) -> list[AuditEntry]:
    """The newest entries, or those before the one numbered `before`."""
    query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.id < before)
    return [AuditEntry(**row) for row in (await connection.execute(query)).mappings()]
