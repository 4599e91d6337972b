"""Orders: only this device's, only known ones, only in time; and every refusal says why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.orders import Order, OrderRefused, OrderState, OrderType, admissible


def an_order(kind: str = "update", device: str = "dev_1") -> Order:
    return Order("ord_1", device, kind, issued_at=100.0, expires_at=200.0)


@pytest.mark.parametrize("kind", OrderType)
def test_every_known_type_is_admitted_in_time(kind: OrderType) -> None:
    assert admissible(an_order(kind.value), "dev_1", 150.0) is kind


def test_an_order_for_another_device_is_refused() -> None:
    with pytest.raises(OrderRefused, match="is for device 'dev_2'"):
        admissible(an_order(device="dev_2"), "dev_1", 150.0)


@given(st.text(max_size=200).filter(lambda text: text not in set(OrderType)))
def test_an_unknown_type_is_refused_by_name(kind: str) -> None:
    with pytest.raises(OrderRefused, match="not known"):
        admissible(an_order(kind), "dev_1", 150.0)


@given(st.floats(200.0, 1e12))
def test_an_expired_order_is_refused(now: float) -> None:
    with pytest.raises(OrderRefused, match="expired"):
        admissible(an_order(), "dev_1", now)


def test_exactly_the_four_ends_are_final() -> None:
    assert {state for state in OrderState if state.final} == {
        OrderState.COMPLETED, OrderState.FAILED, OrderState.REFUSED, OrderState.EXPIRED,
    }
