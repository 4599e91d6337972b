"""The fleet as people see it. The server's clock alone decides who is alive."""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from appliance_protocol.verdict import Score
from central_command import audit
from central_command.audit import Actor
from central_command.foreign import clean, normalise_mac
from central_command.orders import VERSION
from central_command.settings import Settings
from central_command.tables import devices, incidents, sites


class FleetError(ValueError):
    """A device that cannot be found or changed as asked; the message says why."""


class Liveness(enum.StrEnum):
    """Whether a device is there, by when the server last heard from it."""

    ONLINE = "online"
    LATE = "late"
    OFFLINE = "offline"
    NEVER = "never"
    RETIRED = "retired"


def liveness(state: str, last_seen_at: float | None, now: float, interval: int) -> Liveness:
    """Online within three missed check-ins, late within fifteen, then offline. `interval` in seconds."""
    if state != "active":
        return Liveness.RETIRED
    if last_seen_at is None:
        return Liveness.NEVER
    silent = now - last_seen_at
    if silent <= 3 * interval:
        return Liveness.ONLINE
    return Liveness.LATE if silent <= 15 * interval else Liveness.OFFLINE


@dataclass(frozen=True)
class DeviceView:
    """A device as it is listed. Times are seconds since the epoch (UTC); `clock_skew` is device minus server."""

    id: str
    site_id: str
    site_name: str
    hostname: str
    liveness: Liveness
    last_seen_at: float | None
    enrolled_at: float
    vendor: str
    product: str
    serial: str
    mac_addresses: tuple[str, ...]
    image_id: str
    version: str
    digest: str
    assigned_version: str
    slot: str
    agent_version: str
    score: Score
    queue_pending: int
    clock_skew: float | None
    clock_state: str
    update_state: str
    update_version: str
    evidence_sequence: int
    evidence_digest: str
    evidence_at: float | None
    open_incidents: int
    public_key: str
    report: str

    @property
    def on_assigned_version(self) -> bool | None:
        """Whether it runs what it should; None when nothing is assigned or the version is not known."""
        return self.version == self.assigned_version if self.assigned_version and self.version else None


def _query() -> sa.Select[Any]:
    count = sa.select(sa.func.count()).where(incidents.c.device_id == devices.c.id, incidents.c.resolved_at.is_(None))
    return sa.select(
        devices, sites.c.name.label("site_name"), sites.c.assigned_version.label("site_version"),
        count.scalar_subquery().label("open_incidents"),
    ).join(sites, sites.c.id == devices.c.site_id)


def _view(row: Mapping[str, Any], now: float, settings: Settings) -> DeviceView:
    made: dict[str, Any] = {
        "liveness": liveness(row["state"], row["last_seen_at"], now, settings.checkin_interval),
        "mac_addresses": tuple(json.loads(row["mac_addresses"])),
        "assigned_version": row["assigned_version"] or row["site_version"],
        "score": Score(row["conforming"], row["counted"]),
    }
    plain = {name: row[name] for name in DeviceView.__dataclass_fields__ if name not in made}
    return DeviceView(**plain, **made)


def describe(view: DeviceView) -> dict[str, Any]:
    """A device as JSON; the raw report is left out, the score gets its percentage."""
    shown = asdict(view)
    del shown["report"]
    return {**shown, "score": {**shown["score"], "percent": view.score.percent}}


async def every(
    connection: AsyncConnection, settings: Settings, *, text: str = "", site_id: str = "", state: str = "",
    limit: int = 500,
) -> list[DeviceView]:
    """Devices by site and host name. `text` is looked for in names, ids, serials, versions and MAC addresses.

    Retired devices are shown only when `state` asks for them.
    """
    now = time.time()
    query = _query().order_by(sites.c.name, devices.c.hostname, devices.c.id).limit(limit)
    if state in list(Liveness):
        query = query.where(_liveness_column(now, settings.checkin_interval) == state)
    else:
        query = query.where(devices.c.state == "active")
    if site_id:
        query = query.where(devices.c.site_id == site_id)
    if text.strip():
        query = query.where(_matches(clean(text, 100)))
    return [_view(row, now, settings) for row in (await connection.execute(query)).mappings()]


async def counts(connection: AsyncConnection, settings: Settings) -> dict[Liveness, int]:
    """How many devices there are of each liveness."""
    column = _liveness_column(time.time(), settings.checkin_interval).label("liveness")
    found = await connection.execute(sa.select(column, sa.func.count()).group_by(column))
    numbers = {Liveness(name): int(number) for name, number in found}
    return {state: numbers.get(state, 0) for state in Liveness}


def _liveness_column(now: float, interval: int) -> sa.ColumnElement[str]:
    """`liveness` as SQL; a test holds the two against each other."""
    silent = now - devices.c.last_seen_at
    return sa.case(
        (devices.c.state != "active", Liveness.RETIRED.value), (devices.c.last_seen_at.is_(None), Liveness.NEVER.value),
        (silent <= 3 * interval, Liveness.ONLINE.value), (silent <= 15 * interval, Liveness.LATE.value),
        else_=Liveness.OFFLINE.value,
    )


def _matches(text: str) -> sa.ColumnElement[bool]:
    wanted = normalise_mac(text) or text
    columns = (
        devices.c.hostname, devices.c.id, devices.c.serial, devices.c.version, devices.c.mac_addresses, sites.c.name,
    )
    return sa.or_(*(sa.func.lower(column).contains(wanted.lower(), autoescape=True) for column in columns))


async def find(connection: AsyncConnection, settings: Settings, device_id: str) -> DeviceView:
    """The device of that id. Raises `FleetError`."""
    row = (await connection.execute(_query().where(devices.c.id == clean(device_id, 80)))).mappings().first()
    if row is None:
        raise FleetError(f"there is no device {clean(device_id, 80)!r}")
    return _view(row, time.time(), settings)


async def assign(connection: AsyncConnection, actor: Actor, version: str, *, device: str = "", site: str = "") -> None:
    """Say which release a device or a whole site should run; empty takes the assignment back. Raises `FleetError`."""
    if version and not VERSION.fullmatch(version):
        raise FleetError(f"version {clean(version, 40)!r} is not of the form YYYY.MM.N")
    table, wanted = (devices, device) if device else (sites, site)
    update = sa.update(table).where(table.c.id == wanted).values(assigned_version=version)
    if (await connection.execute(update)).rowcount != 1:
        raise FleetError(f"there is no {'device' if device else 'site'} {clean(wanted, 80)!r}")
    await audit.record(connection, actor, "release.assign", wanted, version or "none")


async def retire(connection: AsyncConnection, actor: Actor, device_id: str) -> None:
    """Take a device out of the fleet: its key is refused from now on, its evidence stays. Raises `FleetError`."""
    update = sa.update(devices).where(devices.c.id == device_id, devices.c.state == "active").values(state="retired")
    if (await connection.execute(update)).rowcount != 1:
        raise FleetError(f"there is no active device {clean(device_id, 80)!r}")
    await audit.record(connection, actor, "device.retire", device_id)
