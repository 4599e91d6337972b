"""Orders: signed when they are made, delivered with check-ins, and always brought to an end with a reason."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from appliance_protocol.envelope import PayloadType, seal
from appliance_protocol.keys import PrivateKey
from appliance_protocol.orders import Order, OrderResult, OrderState, OrderType
from appliance_protocol.wire import canonical
from central_command import audit
from central_command.audit import Actor
from central_command.foreign import clean, is_id
from central_command.identifiers import new_id
from central_command.settings import Settings
from central_command.tables import OPEN_STATES, devices, order_results, orders

MAX_OPEN_ORDERS = 50
"""Orders of one device that are not yet finished."""
MAX_RESULTS = 30
"""Different answers to one order that are kept."""
VERSION = re.compile(r"[0-9]{4}\.[0-9]{1,2}\.[0-9]{1,6}")
_PARAMETERS: dict[OrderType, frozenset[str]] = {
    OrderType.FORCE_CHECKIN: frozenset(), OrderType.RUN_CHECKS: frozenset(), OrderType.RUN_SCAN: frozenset(),
    OrderType.UPDATE: frozenset({"version"}), OrderType.NIXOS_REBUILD: frozenset({"store_path", "flake"}),
}
STORE_PATH = re.compile(r"/nix/store/[0-9abcdfghijklmnpqrsvwxyz]{32}-[0-9A-Za-z+_?=][0-9A-Za-z+._?=-]{0,210}")
FLAKE = re.compile(
    r"(github|gitlab|sourcehut|git\+https|git\+ssh|https|tarball\+https):"
    r"[A-Za-z0-9/][A-Za-z0-9@:/?&=._~%+-]{0,400}#[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
)
_SAID_BY_DEVICE = frozenset(OrderState) - {OrderState.PENDING, OrderState.DELIVERED}


class OrderError(ValueError):
    """An order that cannot be made, or a result that cannot be taken; the message says why."""


class OrderConflict(OrderError):
    """An order that must wait for another one."""


class UnknownOrder(OrderError):
    """A result for an order this device never had."""


@dataclass(frozen=True)
class OrderView:
    """An order as people see it. Times are seconds since the epoch (UTC) by the server's clock."""

    id: str
    device_id: str
    type: str
    parameters: dict[str, str]
    state: str
    reason: str
    issued_at: float
    issued_by: str
    expires_at: float
    attempts: int
    delivered_at: float | None
    started_at: float | None
    finished_at: float | None
    details: dict[str, str]

    @property
    def final(self) -> bool:
        """Whether nothing will change any more."""
        return OrderState(self.state).final


def _view(row: Mapping[Any, Any]) -> OrderView:
    fields = {name: row[name] for name in OrderView.__dataclass_fields__}
    return OrderView(**{**fields, "parameters": json.loads(row["parameters"]), "details": json.loads(row["details"])})


def _checked(kind: str, parameters: Mapping[str, str]) -> OrderType:
    try:
        order_type = OrderType(kind)
    except ValueError as error:
        raise OrderError(f"there is no order {clean(kind, 40)!r}; known are {', '.join(OrderType)}") from error
    strange = sorted(set(parameters) - _PARAMETERS[order_type])
    if strange:
        raise OrderError(f"{order_type} takes no parameter {clean(strange[0], 40)!r}")
    version = parameters.get("version", "")
    if version and not VERSION.fullmatch(version):
        raise OrderError(f"version {clean(version, 40)!r} is not of the form YYYY.MM.N")
    if order_type is OrderType.NIXOS_REBUILD:
        _check_generation(parameters)
    return order_type


def _check_generation(parameters: Mapping[str, str]) -> None:
    """The form only: whether the device takes it is decided there, by its own keys and list."""
    named = [name for name in ("store_path", "flake") if parameters.get(name)]
    if len(named) != 1:
        raise OrderError("nixos_rebuild takes a store_path or a flake, and only one of them")
    form = STORE_PATH if named == ["store_path"] else FLAKE
    if not form.fullmatch(parameters[named[0]]):
        raise OrderError(f"{clean(parameters[named[0]], 80)!r} is not a {named[0].replace('_', ' ')}")


async def create(
    connection: AsyncConnection, actor: Actor, key: PrivateKey, settings: Settings, device_id: str, kind: str,
    parameters: Mapping[str, str], lifetime: float | None = None,
) -> OrderView:
    """Sign and store an order. `lifetime` in seconds, else the setting.

    Raises `OrderError`: unknown device or type, wrong parameters; `OrderConflict`: an update is under way already.
    """
    order_type = _checked(kind, parameters)
    lifetime = settings.order_lifetime if lifetime is None else lifetime
    if not 1 <= lifetime <= 30 * 24 * 3600:
        raise OrderError("an order waits between one second and 30 days for its device")
    await _room(connection, device_id)
    now = time.time()
    order = Order(new_id("ord"), device_id, order_type.value, now, now + lifetime, dict(parameters))
    row = {
        "id": order.order_id, "device_id": device_id, "type": order.type, "parameters": json.dumps(order.parameters),
        "issued_at": now, "issued_by": clean(actor.name, 120), "expires_at": order.expires_at,
        "deadline_at": order.expires_at + settings.order_deadline,
        "envelope": seal(order, PayloadType.ORDER, key).to_bytes().decode(),
    }
    try:
        async with connection.begin_nested():
            await connection.execute(sa.insert(orders).values(**row))
    except IntegrityError as error:
        raise OrderConflict("an update of this device is under way; wait until it has ended") from error
    told = json.dumps({"order": order.order_id, **order.parameters})
    await audit.record(connection, actor, f"order.{order.type}", device_id, told)
    return await find(connection, order.order_id)


async def _room(connection: AsyncConnection, device_id: str) -> None:
    query = sa.select(devices.c.state).where(devices.c.id == device_id).with_for_update()
    state = (await connection.execute(query)).scalar_one_or_none() if is_id(device_id) else None
    if state is None:
        raise UnknownOrder(f"there is no device {clean(device_id, 80)!r}")
    if state != "active":
        raise OrderError(f"the device is {state} and takes no orders")
    count = sa.select(sa.func.count()).where(orders.c.device_id == device_id, orders.c.state.in_(OPEN_STATES))
    if (await connection.execute(count)).scalar_one() >= MAX_OPEN_ORDERS:
        raise OrderConflict(f"{MAX_OPEN_ORDERS} orders are waiting for this device already")


async def find(connection: AsyncConnection, order_id: str) -> OrderView:
    """The order of that id. Raises `UnknownOrder`."""
    query = sa.select(orders).where(orders.c.id == order_id)
    row = (await connection.execute(query)).mappings().first() if is_id(order_id) else None
    if row is None:
        raise UnknownOrder(f"there is no order {clean(order_id, 80)!r}")
    return _view(row)


async def of_device(connection: AsyncConnection, device_id: str, limit: int = 25) -> list[OrderView]:
    """A device's newest orders."""
    query = sa.select(orders).where(orders.c.device_id == device_id).order_by(orders.c.issued_at.desc()).limit(limit)
    return [_view(row) for row in (await connection.execute(query)).mappings()]


def on_checkin(
    waiting: Iterable[Mapping[Any, Any]], in_progress: Collection[str], now: float, attempts: int
) -> tuple[list[str], list[dict[str, Any]]]:
    """What a check-in does to a device's open orders: the envelopes to deliver, and the rows to change.

    An order the device names as in progress is executing; any other open one is delivered (again: a reply may be
    lost), until it expires or `attempts` deliveries went without a word.
    """
    deliver: list[str] = []
    changes: list[dict[str, Any]] = []
    for row in waiting:
        change = _change(row, row["id"] in in_progress, now, attempts)
        if change is None:
            continue
        if change["state"] == OrderState.DELIVERED:
            deliver.append(row["envelope"])
        changes.append(change)
    return deliver, changes


def _change(row: Mapping[Any, Any], working: bool, now: float, attempts: int) -> dict[str, Any] | None:
    same = {name: row[name] for name in ("reason", "attempts", "delivered_at", "started_at", "finished_at")}
    base = {**same, "order_id": row["id"], "was": row["state"]}
    if working:
        if row["state"] == OrderState.EXECUTING:
            return None
        return {**base, "state": OrderState.EXECUTING.value, "started_at": now}
    if now >= row["expires_at"]:
        if row["state"] == OrderState.EXECUTING:
            return None
        return {**base, "state": OrderState.EXPIRED.value, "finished_at": now, "reason": _expired(row["attempts"])}
    if row["attempts"] >= attempts:
        reason = f"delivered {row['attempts']} times without an answer"
        return {**base, "state": OrderState.FAILED.value, "finished_at": now, "reason": reason}
    first = now if row["delivered_at"] is None else row["delivered_at"]
    state = OrderState.DELIVERED.value
    return {**base, "state": state, "delivered_at": first, "attempts": row["attempts"] + 1}


def _expired(attempts: int) -> str:
    return f"expired after {attempts} deliveries without an answer" if attempts else "expired before the device came"


async def apply(connection: AsyncConnection, changes: list[dict[str, Any]]) -> None:
    """Write what `on_checkin` has decided; an order that a result has moved in between keeps its state."""
    if not changes:
        return
    columns = ("state", "reason", "attempts", "delivered_at", "started_at", "finished_at")
    update = (
        sa.update(orders).where(orders.c.id == sa.bindparam("order_id"), orders.c.state == sa.bindparam("was"))
        .values({name: sa.bindparam(f"new_{name}") for name in columns})
    )
    renamed = [{"order_id": c["order_id"], "was": c["was"], **{f"new_{n}": c[n] for n in columns}} for c in changes]
    await connection.execute(update, renamed)


async def take_result(connection: AsyncConnection, result: OrderResult) -> bool:
    """Take what a device says of an order. Returns whether it was there already (or came too late to matter).

    Raises `UnknownOrder` when the device has no such order, `OrderError` when a device cannot say that.
    """
    if result.state not in _SAID_BY_DEVICE:
        raise OrderError(f"a device cannot call an order {result.state.value}")
    if not is_id(result.order_id):
        raise UnknownOrder("this device has no such order")
    query = sa.select(orders).where(orders.c.id == result.order_id, orders.c.device_id == result.device_id)
    row = (await connection.execute(query.with_for_update())).mappings().first()
    if row is None:
        raise UnknownOrder("this device has no such order")
    digest = hashlib.sha256(canonical(result)).hexdigest()
    kept = (await connection.execute(
        sa.select(order_results.c.digest).where(order_results.c.order_id == result.order_id)
    )).scalars().all()
    final = OrderState(row["state"]).final
    if digest in kept or (final and len(kept) >= MAX_RESULTS):
        return True
    if len(kept) < MAX_RESULTS:
        await connection.execute(sa.insert(order_results).values(**_result_row(result, digest, applied=not final)))
    news = _outcome(result, row["started_at"], time.time()) if not final else _late(result, row["reason"])
    await connection.execute(sa.update(orders).where(orders.c.id == result.order_id).values(**news))
    return final


def _result_row(result: OrderResult, digest: str, *, applied: bool) -> dict[str, Any]:
    return {
        "order_id": result.order_id, "digest": digest, "state": result.state.value,
        "message": clean(result.message, 1000), "device_at": result.at, "received_at": time.time(), "applied": applied,
    }


def _outcome(result: OrderResult, started_at: float | None, now: float) -> dict[str, Any]:
    details = {clean(key, 80): clean(value) for key, value in list(result.details.items())[:40]}
    return {
        "state": result.state.value, "reason": clean(result.message, 1000), "details": json.dumps(details),
        "started_at": now if started_at is None else started_at, "finished_at": now if result.state.final else None,
    }


def _late(result: OrderResult, reason: str) -> dict[str, Any]:
    """A final state stays what it is; that the device came and said something after all is added to the reason."""
    return {"reason": clean(f"{reason}; later the device said {result.state.value}: {result.message}", 1000)}


async def sweep(connection: AsyncConnection, now: float) -> int:
    """Bring orders to their end whose device stays away: expired, or taken and never answered. Returns how many."""
    waiting = (OrderState.PENDING.value, OrderState.DELIVERED.value)
    expire = sa.update(orders).where(orders.c.state.in_(waiting), orders.c.expires_at <= now).values(
        state=OrderState.EXPIRED.value, finished_at=now,
        reason=sa.case(
            (orders.c.attempts == 0, "expired before the device came"),
            else_="expired; it was delivered, but the device never answered",
        ),
    )
    abandon = sa.update(orders).where(
        orders.c.state == OrderState.EXECUTING.value, orders.c.deadline_at <= now
    ).values(state=OrderState.FAILED.value, finished_at=now, reason="the device took it and gave no result in time")
    expired = (await connection.execute(expire)).rowcount
    return expired + (await connection.execute(abandon)).rowcount
