"""`force_checkin`: check in now instead of at the next turn."""

from __future__ import annotations

from appliance_protocol.orders import Order, OrderType
from compliance_agent.orders.base import Done, OrderHandler, Services, Step


class ForceCheckin(OrderHandler):
    """The order itself came with a check-in; this one shows that a second follows it."""

    type = OrderType.FORCE_CHECKIN
    deadline = 150.0

    async def start(self, order: Order, services: Services) -> Step:
        """Check in, and be done when the server answered."""
        await services.check_in()
        return Done("Checked in.")
