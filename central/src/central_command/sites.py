"""Clinics, and the one-time codes by which a new device joins one."""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from central_command import audit
from central_command.audit import Actor
from central_command.foreign import clean
from central_command.identifiers import fingerprint, new_code, new_id, normalise_code
from central_command.tables import devices, enrolment_codes, sites


class SiteError(ValueError):
    """A site or code that cannot be made or found; the message says why."""


@dataclass(frozen=True)
class Site:
    """A clinic. `assigned_version` is what its devices should run unless they have one of their own."""

    id: str
    name: str
    assigned_version: str
    created_at: float
    device_count: int = 0


@dataclass(frozen=True)
class EnrolmentCode:
    """A code as it is listed: the code itself is shown once, when it is made. Times are seconds since the epoch."""

    id: str
    site_id: str
    site_name: str
    label: str
    created_at: float
    created_by: str
    expires_at: float
    used_at: float | None
    device_id: str | None

    def state(self, now: float) -> str:
        """`used`, `expired` or `open`."""
        if self.used_at is not None:
            return "used"
        return "expired" if now >= self.expires_at else "open"


async def create(connection: AsyncConnection, actor: Actor, name: str) -> Site:
    """A new site. Raises `SiteError` when the name is empty or taken."""
    name = clean(name, 120)
    if not name:
        raise SiteError("a site needs a name")
    site = Site(new_id("site"), name, "", time.time())
    row = {"id": site.id, "name": name, "created_at": site.created_at}
    try:
        async with connection.begin_nested():
            await connection.execute(sa.insert(sites).values(**row))
    except IntegrityError as error:
        raise SiteError(f"there is a site called {name!r} already") from error
    await audit.record(connection, actor, "site.create", site.id, name)
    return site


async def find(connection: AsyncConnection, name_or_id: str) -> Site:
    """The site of that name or id. Raises `SiteError`."""
    query = sa.select(sites).where(sa.or_(sites.c.id == name_or_id, sites.c.name == clean(name_or_id, 120)))
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise SiteError(f"there is no site {clean(name_or_id, 120)!r}; central-command site list shows them")
    return Site(**row)


async def every(connection: AsyncConnection) -> list[Site]:
    """All sites by name, with how many devices each has."""
    count = sa.select(sa.func.count()).where(devices.c.site_id == sites.c.id, devices.c.state == "active")
    query = sa.select(sites, count.scalar_subquery().label("device_count")).order_by(sites.c.name)
    return [Site(**row) for row in (await connection.execute(query)).mappings()]


async def create_code(
    connection: AsyncConnection, actor: Actor, site: Site, lifetime: float, label: str = ""
) -> tuple[EnrolmentCode, str]:
    """A code for one device of the site, and its text, which is kept nowhere. `lifetime` in seconds."""
    text = new_code()
    now = time.time()
    code = EnrolmentCode(
        new_id("code"), site.id, site.name, clean(label, 120), now, actor.name, now + lifetime, None, None
    )
    row = {
        "id": code.id, "site_id": site.id, "code_hash": fingerprint(normalise_code(text) or ""), "label": code.label,
        "created_at": now, "created_by": actor.name, "expires_at": code.expires_at,
    }
    await connection.execute(sa.insert(enrolment_codes).values(**row))
    await audit.record(connection, actor, "enrolment-code.create", code.id, f"for {site.name}")
    return code, text


async def codes(connection: AsyncConnection, limit: int = 100) -> list[EnrolmentCode]:
    """The newest codes of all sites."""
    query = (
        sa.select(
            *[column for column in enrolment_codes.c if column.name != "code_hash"], sites.c.name.label("site_name")
        )
        .join(sites, sites.c.id == enrolment_codes.c.site_id)
        .order_by(enrolment_codes.c.created_at.desc()).limit(limit)
    )
    return [EnrolmentCode(**row) for row in (await connection.execute(query)).mappings()]
