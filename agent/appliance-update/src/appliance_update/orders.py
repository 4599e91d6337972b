"""Whose order an update answers: one at a time, each once, and nobody's when nobody asked."""

from __future__ import annotations

from collections.abc import Sequence

from appliance_update import history, inbox
from appliance_update.history import Event
from appliance_update.inbox import Request
from appliance_update.store import Store

MOST = 16
"""Orders that may wait for their turn; of more the oldest are forgotten (who gave them asks again)."""


NO_GENERATIONS = "This appliance is an image: it has slots and no generations; order an update in its place"


def take(store: Store) -> set[str]:
    """Queue the orders somebody asks for; their ids. One that has its answer, or its turn, is not queued again."""
    requests, refused = inbox.take(store.runtime / "requests")
    for request in requests:
        if request.generation:
            refuse(store, request.order_id, NO_GENERATIONS)
    return queue_up(store, [request for request in requests if not request.generation], refused)


def refuse(store: Store, order_id: str, reason: str) -> None:
    """Answer an order that is never carried out, whatever is under way. Once. Raises `OSError`."""
    if not store.answered(order_id):
        entry = history.Entry(store.now(), Event.REFUSED.value, reason=reason, order_id=order_id)
        history.append(store.history_path, entry)


def queue_up(store: Store, requests: Sequence[Request], refused: Sequence[str]) -> set[str]:
    """Queue the orders of these requests; their ids. `refused` are sentences about those that could not be read."""
    for reason in refused:
        store.note(Event.CHECK_FAILED, reason=f"A request was refused: {reason}")
    kept = store.record
    queue = list(kept.waiting_orders)
    for order_id in (request.order_id for request in requests):
        has_turn = kept.order_open and order_id == kept.order_id
        if order_id not in queue and not has_turn and not store.answered(order_id):
            queue.append(order_id)
    if tuple(queue) != kept.waiting_orders:
        store.save(waiting_orders=tuple(queue[-MOST:]))
    return {request.order_id for request in requests}


def turn(store: Store, requested: set[str]) -> bool:
    """Give the next order its turn when the one before has its answer. Whether somebody waits for this run's answer."""
    kept = store.record
    if kept.order_open and not store.answered(kept.order_id):
        return kept.order_id in requested
    if kept.waiting_orders and (kept.state.settled or not kept.order_id):
        first, *rest = kept.waiting_orders
        store.save(order_id=first, order_open=True, waiting_orders=tuple(rest))
        return True
    if kept.state.settled and kept.order_id:
        store.save(order_id="", order_open=False)
    return False
