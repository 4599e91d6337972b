"""`update`: ask the appliance updater, and report what it made of it, across reboots.

The updater shares nothing with the agent but three files: a request is dropped into its box, and its status and its
journal tell the rest. The order is complete only when the journal says so: an update that merely began, a version
that merely runs on trial, or a status that cannot be read is not a success.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from appliance_protocol.orders import Order, OrderState, OrderType
from compliance_agent.facts.update import (
    UpdaterEvent,
    UpdaterUnreadable,
    read_history,
    read_status,
)
from compliance_agent.orders.base import Done, OrderFailed, OrderHandler, Services, Step, Waiting

VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.~-]{0,63}")
SAFE_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,79}")
RESTING = ("idle", "committed", "rolled_back", "quarantined")
"""States in which the updater has nothing in hand."""
MAX_REQUESTS = 3
"""How often the request is made when it got lost (a reboot empties /run) or the repository did not answer."""
REPEAT_AFTER = 300.0
"""Seconds before a request is made again."""
DAY = 86400.0


class Update(OrderHandler):
    """Drops the request and follows the updater until it has committed or rolled back."""

    type = OrderType.UPDATE
    deadline = 20.0
    patience = 14 * DAY
    """A maintenance window may be a week away."""

    async def start(self, order: Order, services: Services) -> Step:
        """Drop the request, unless the box runs that version already."""
        version = order.parameters.get("version", "")
        if version and not VERSION.fullmatch(version):
            raise OrderFailed(f"{version[:80]!r} is not a version")
        if not SAFE_ID.fullmatch(order.order_id):
            raise OrderFailed(f"order id {order.order_id[:80]!r} cannot be the name of a request file")
        if version and services.release().version == version and await self._at_rest(services):
            return Done(f"Version {version} runs already.", {"version": version})
        await services.blocking(drop_request, Path(services.config.paths.update_requests), order, version)
        return self._waiting(1, services, "The updater was asked.")

    async def poll(self, order: Order, context: dict[str, str], services: Services) -> Step:
        """Read the updater's journal and status."""
        paths = services.config.paths
        history = await services.blocking(read_history, Path(paths.update_history))
        ours = [event for event in history if event.order_id == order.order_id]
        ended = _ending(order, ours, services.release().version)
        if ended is not None:
            return ended
        try:
            status = await services.blocking(read_status, Path(paths.update_status))
        except UpdaterUnreadable as error:
            return self._lost(order, context, services, str(error))
        if status.order_id == order.order_id and status.state not in RESTING:
            message = f"{status.state}: {status.detail or status.candidate_version or ''}".strip(": ")
            return Waiting(context | {"seen": "yes"}, message)
        if order.order_id in status.waiting_orders:
            return Waiting(context | {"seen": "yes"}, "Another order is being carried out; this one comes after it.")
        failures = _failures(ours, context)
        looked = status.order_id == order.order_id and status.state == "idle" and not status.last_check_error
        if looked and not failures:
            wanted = order.parameters.get("version", "")
            if wanted and wanted == services.release().version:
                return Done(f"Version {wanted} runs already.", {"version": wanted})
            if not wanted:
                return Done("There is no newer release for this device.", {"version": services.release().version})
            failures = [f"version {wanted} is not what the update repository offers this device"]
        return await self._again(order, context, services, failures)

    async def _again(self, order: Order, context: dict[str, str], services: Services, failures: list[str]) -> Step:
        """The updater is at rest and says nothing of our order: wait, ask again, or give up."""
        reason = failures[-1] if failures else "the updater did not take the request"
        if services.server_time() < float(context["requested_at"]) + REPEAT_AFTER:
            return Waiting(context, reason if failures else "Waiting for the updater.")
        requests = int(context["requests"])
        if requests >= MAX_REQUESTS:
            raise OrderFailed(f"asked {requests} times: {reason}; see `journalctl -u 'appliance-update*'`")
        version = order.parameters.get("version", "")
        box = Path(services.config.paths.update_requests)
        await services.blocking(drop_request, box, order, version, self._request(order))
        return self._waiting(requests + 1, services, f"Asked again: {reason}", len(failures))

    def _request(self, order: Order) -> dict[str, str]:
        """What a request says beside the order and the version."""
        return {}

    def _lost(self, order: Order, context: dict[str, str], services: Services, reason: str) -> Step:
        """The status cannot be read: unknown is not success, and not yet failure either."""
        if services.server_time() > float(context["requested_at"]) + DAY:
            raise OrderFailed(f"the updater's status could not be read for a day: {reason}")
        return Waiting(context, f"The updater's status cannot be read: {reason}")

    def _waiting(self, requests: int, services: Services, message: str, failures: int = 0) -> Waiting:
        context = {"requests": str(requests), "requested_at": repr(services.server_time()), "failures": str(failures)}
        return Waiting(context, message)

    async def _at_rest(self, services: Services) -> bool:
        try:
            status = await services.blocking(read_status, Path(services.config.paths.update_status))
        except UpdaterUnreadable:
            return False
        return status.state in RESTING


def _ending(order: Order, ours: list[UpdaterEvent], running: str) -> Done | None:
    """The outcome, once the journal tells it."""
    for event in reversed(ours):
        version = event.version or ""
        details = {"version": version, "from_version": event.from_version or "", "running_version": running}
        if event.event == "committed":
            wanted = order.parameters.get("version", "")
            if wanted and wanted != version:
                said = f"Version {version} runs and is committed, but {wanted} was ordered."
                return Done(said, details, OrderState.FAILED)
            return Done(f"Version {version} runs and is committed.", details)
        if event.event in ("rolled_back", "quarantined"):
            reason = event.reason or "the updater gives no reason"
            what = event.event.replace("_", " ")
            return Done(f"Version {version} was {what}: {reason}", details, OrderState.FAILED)
    return None


def _failures(ours: list[UpdaterEvent], context: dict[str, str]) -> list[str]:
    """Why the updater could not check, as often as it said so since the last request."""
    said = [event.reason or "the update failed" for event in ours if event.event in ("check_failed", "update_failed")]
    return said[int(context.get("failures", "0")) :]


def drop_request(directory: Path, order: Order, version: str, more: Mapping[str, str] | None = None) -> None:
    """Put a request into the updater's box, whole or not at all. Raises `OrderFailed`."""
    document: dict[str, object] = {**(more or {}), "order_id": order.order_id, "requested_at": order.issued_at}
    if version:
        document["version"] = version
    target = directory / f"{order.order_id}.json"
    temporary = directory / f".{order.order_id}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            json.dump(document, file)
        temporary.replace(target)
    except OSError as error:
        raise OrderFailed(
            f"{target}: the request cannot be dropped: {error.strerror or error}; is the updater installed?"
        ) from error
