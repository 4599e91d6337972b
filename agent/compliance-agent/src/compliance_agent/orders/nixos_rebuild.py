"""`nixos_rebuild`: ask the updater of a host that keeps generations for one, by store path or flake reference.

Nothing is rebuilt here. The request is dropped as it is for an update, and the updater decides by its own lists and
keys whether it carries it out: an agent that was taken over cannot have anything installed.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from appliance_protocol.orders import Order, OrderState, OrderType
from compliance_agent.facts.update import UpdaterUnreadable, read_history, read_status
from compliance_agent.orders.base import Done, OrderFailed, Services, Step
from compliance_agent.orders.update import SAFE_ID, Update, drop_request

STORE_PATH = re.compile(r"/nix/store/[0-9a-z]{32}-[0-9A-Za-z+_?=][0-9A-Za-z+._?=-]{0,210}")
FLAKE = re.compile(r"[a-z][a-z0-9+]{1,20}:[A-Za-z0-9/][A-Za-z0-9@:/?&=._~%+-]{0,400}#[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class NixosRebuild(Update):
    """Drops the request and follows the updater until the generation is committed, rolled back or refused."""

    type = OrderType.NIXOS_REBUILD

    async def start(self, order: Order, services: Services) -> Step:
        """Drop the request. An image has no generations, and says so."""
        target = wanted(order)
        if not SAFE_ID.fullmatch(order.order_id):
            raise OrderFailed(f"order id {order.order_id[:80]!r} cannot be the name of a request file")
        status = None
        with contextlib.suppress(UpdaterUnreadable):
            status = await services.blocking(read_status, Path(services.config.paths.update_status))
        if status is not None and any(slot.state != "unknown" for slot in status.slots.values()):
            return Done("This appliance is an image: it has slots and no generations.", {}, OrderState.REFUSED)
        await services.blocking(drop_request, Path(services.config.paths.update_requests), order, "", target)
        return self._waiting(1, services, "The updater was asked.")

    async def poll(self, order: Order, context: dict[str, str], services: Services) -> Step:
        """As for an update; an updater that refuses says why in its journal."""
        history = await services.blocking(read_history, Path(services.config.paths.update_history))
        for event in history:
            if event.order_id == order.order_id and event.event == "refused":
                return Done(event.reason or "the updater gives no reason", {}, OrderState.REFUSED)
        return await super().poll(order, context, services)

    def _request(self, order: Order) -> dict[str, str]:
        return wanted(order)


def wanted(order: Order) -> dict[str, str]:
    """The one target that an order names. Raises `OrderFailed`."""
    target = {name: text for name in ("store_path", "flake") if (text := order.parameters.get(name, ""))}
    if len(target) != 1:
        raise OrderFailed("a rebuild names a store path or a flake, and only one of them")
    for name, form in (("store_path", STORE_PATH), ("flake", FLAKE)):
        if name in target and not form.fullmatch(target[name]):
            raise OrderFailed(f"{target[name][:80]!r} is not a {name.replace('_', ' ')}")
    return target
