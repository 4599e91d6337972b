"""Orders of Central Command, and what became of them.

An order is a signed envelope; the device acts on the verified payload only. Types and fields are added, never
renamed: a device that does not know a type answers `refused` with the reason and goes on.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from appliance_protocol.wire import WireError


class OrderType(enum.StrEnum):
    """What Central Command may ask for."""

    FORCE_CHECKIN = "force_checkin"
    RUN_CHECKS = "run_checks"
    RUN_SCAN = "run_scan"
    UPDATE = "update"
    NIXOS_REBUILD = "nixos_rebuild"
    """On a host that keeps generations: install the one named by `store_path` or `flake`."""


class OrderState(enum.StrEnum):
    """Where an order stands. The last four are final."""

    PENDING = "pending"
    DELIVERED = "delivered"
    EXECUTING = "executing"
    COMPLETED = "completed"
    FAILED = "failed"
    REFUSED = "refused"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether nothing will change any more."""
        return self in (OrderState.COMPLETED, OrderState.FAILED, OrderState.REFUSED, OrderState.EXPIRED)


@dataclass(frozen=True)
class Order:
    """The payload of an order. `type` is text so that an unknown type can still be read, named and refused.

    `issued_at` and `expires_at` are seconds since the epoch by the server's clock.
    """

    order_id: str
    device_id: str
    type: str
    issued_at: float
    expires_at: float
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OrderResult:
    """What the device says of an order. Sent again until the server has taken it; the server takes it once."""

    device_id: str
    order_id: str
    state: OrderState
    message: str
    at: float
    details: dict[str, str] = field(default_factory=dict)


class OrderRefused(WireError):
    """An order this device must not carry out; the message says why."""


def admissible(order: Order, device_id: str, now: float) -> OrderType:
    """The order's type, once it is shown to be for this device, known and in time.

    `now` is the device's best estimate of the server's time. Raises `OrderRefused`.
    """
    if order.device_id != device_id:
        raise OrderRefused(f"order {order.order_id[:80]} is for device {order.device_id[:80]!r}, this is {device_id!r}")
    try:
        kind = OrderType(order.type)
    except ValueError as error:
        raise OrderRefused(f"order type {order.type[:80]!r} is not known to this version of the agent") from error
    if now >= order.expires_at:
        raise OrderRefused(f"order {order.order_id[:80]} expired {now - order.expires_at:.0f} s ago")
    return kind
