"""From a signed envelope to a reported result: once, in time, and whatever happens in between.

Before anything is done about an order, it is on disk that it is being done. Handlers are called one at a time; one
that waits (a scan, an update with its reboot) is asked again at every round and holds up no other.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Mapping, Sequence

from appliance_protocol.envelope import Envelope, EnvelopeError, PayloadType, open_payload
from appliance_protocol.orders import Order, OrderRefused, OrderResult, OrderState, OrderType, admissible
from appliance_protocol.wire import WireError, decode
from compliance_agent.identity import Enrolment
from compliance_agent.offload import on_disk
from compliance_agent.orders.base import Done, OrderHandler, Services, Step
from compliance_agent.store import OrderRecord, Store

log = logging.getLogger(__name__)

MAX_ORDER = 64 << 10
"""Largest order payload in bytes."""
MAX_ID = 80


class OrderRunner:
    """Takes orders, carries them out, and keeps their results until they are reported."""

    def __init__(self, store: Store, handlers: Mapping[OrderType, OrderHandler], services: Services) -> None:
        self._store = store
        self._handlers = handlers
        self._services = services
        self._asked: set[str] = set()
        self._unsaved: dict[str, OrderRecord] = {}
        self.open: tuple[str, ...] = ()
        """The orders that are not finished, as of the last step."""

    async def accept(self, envelopes: Sequence[Envelope], enrolment: Enrolment) -> int:
        """Take the orders of a check-in's reply. Returns how many are new; raises `StoreError`.

        What is not signed by the server is not an order, and nobody is told what became of it.
        """
        new = 0
        for envelope in envelopes:
            try:
                order = read_order(envelope, enrolment)
            except WireError as error:
                log.warning("an order was not taken: %s", error)
                continue
            if await on_disk(self._store.receive, order, self._services.server_time()):
                log.info("order %s: %s", order.order_id, order.type[:80])
                new += 1
        return new

    async def step(self, device_id: str) -> bool:
        """Go one step with the next open order. Returns whether others of this round wait; raises `StoreError`."""
        records = await on_disk(self._store.open_orders)
        self.open = tuple(record.order.order_id for record in records)
        turn = next((record for record in records if record.order.order_id not in self._asked), None)
        if turn is None:
            self._asked.clear()
            return False
        self._asked.add(turn.order.order_id)
        finished = self._unsaved.get(turn.order.order_id)
        await (self._advance(turn, device_id) if finished is None else self._save(finished))
        return True

    async def _advance(self, record: OrderRecord, device_id: str) -> None:
        now = self._services.server_time()
        try:
            handler = self._handler(record, device_id, now)
        except OrderRefused as error:
            late = now >= record.order.expires_at and _known(record.order)
            state = OrderState.EXPIRED if late else OrderState.REFUSED
            return await self._finish(record, Done(str(error), state=state))
        if record.started_at is not None and now > record.started_at + handler.patience:
            said = f"no outcome within {handler.patience:.0f} s: {record.message or 'nothing was heard of it'}"
            return await self._finish(record, Done(said, state=OrderState.FAILED))
        if record.context:
            return await self._call(record, handler, handler.poll(record.order, dict(record.context), self._services))
        if record.attempts >= handler.max_attempts:
            cut = f"the agent was cut off {record.attempts} times in the middle of it; it is not tried again"
            return await self._finish(record, Done(cut, state=OrderState.FAILED))
        begun = dataclasses.replace(
            record,
            state=OrderState.EXECUTING,
            attempts=record.attempts + 1,
            started_at=record.started_at if record.started_at is not None else now,
        )
        await on_disk(self._store.save_order, begun)
        return await self._call(begun, handler, handler.start(record.order, self._services))

    def _handler(self, record: OrderRecord, device_id: str, now: float) -> OrderHandler:
        """Who carries the order out. An order that has begun may end after its expiry. Raises `OrderRefused`."""
        begun = record.state is OrderState.EXECUTING
        kind = admissible(record.order, device_id, record.started_at or now if begun else now)
        if kind not in self._handlers:
            raise OrderRefused(f"this version of the agent has no handler for {kind.value}")
        return self._handlers[kind]

    async def _call(self, record: OrderRecord, handler: OrderHandler, call: Awaitable[Step]) -> None:
        step: Step
        try:
            async with asyncio.timeout(handler.deadline):
                step = await call
        except TimeoutError as error:
            said = str(error) or f"the order was not carried out within {handler.deadline:.0f} s"
            step = Done(said, state=OrderState.FAILED)
        except Exception as error:
            log.warning("order %s failed", record.order.order_id, exc_info=error)
            step = Done(str(error) or repr(error), state=OrderState.FAILED)
        if isinstance(step, Done):
            return await self._finish(record, step)
        if step.context != record.context or step.message != record.message:
            waiting = dataclasses.replace(record, context=step.context, message=step.message)
            await on_disk(self._store.save_order, waiting)
        return None

    async def _finish(self, record: OrderRecord, outcome: Done) -> None:
        log.info("order %s: %s: %s", record.order.order_id, outcome.state.value, outcome.message)
        finished = dataclasses.replace(
            record,
            state=outcome.state,
            message=outcome.message[:2000],
            details=outcome.details,
            finished_at=self._services.server_time(),
            reported_at=None,
        )
        self._unsaved[record.order.order_id] = finished
        await self._save(finished)

    async def _save(self, finished: OrderRecord) -> None:
        """Keep an outcome. Until the disk takes it, it is remembered here, so that nothing is done twice."""
        await on_disk(self._store.save_order, finished)
        self._unsaved.pop(finished.order.order_id, None)

    async def unreported(self, device_id: str) -> list[OrderResult]:
        """The results the server has not taken yet. Raises `StoreError`."""
        return [
            OrderResult(
                device_id=device_id,
                order_id=record.order.order_id,
                state=record.state,
                message=record.message,
                at=record.finished_at or record.received_at,
                details=record.details or {},
            )
            for record in await on_disk(self._store.unreported_orders)
        ]

    async def reported(self, order_id: str) -> None:
        """The server has taken the result. Raises `StoreError`."""
        record = await on_disk(self._store.order, order_id)
        if record is not None:
            told = dataclasses.replace(record, reported_at=self._services.server_time())
            await on_disk(self._store.save_order, told)


def read_order(envelope: Envelope, enrolment: Enrolment) -> Order:
    """The order in an envelope, once the server is shown to have signed it. Raises `WireError`."""
    payload = open_payload(envelope, PayloadType.ORDER, enrolment.keys)
    order = decode(payload, Order, limit=MAX_ORDER)
    if not 0 < len(order.order_id) <= MAX_ID or not order.order_id.isprintable():
        raise EnvelopeError(f"order id {order.order_id[:MAX_ID]!r} is empty, too long or unprintable")
    return order


def _known(order: Order) -> bool:
    return order.type in OrderType._value2member_map_
