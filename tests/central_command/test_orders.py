"""An order is signed, delivered until the device says something, carried out once, and always comes to an end."""

from __future__ import annotations

import time
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.envelope import EnvelopeError, PayloadType, open_as
from appliance_protocol.keys import PrivateKey
from appliance_protocol.orders import Order, OrderState, OrderType, admissible
from central_command import orders as desk
from central_command.accounts import Role
from central_command.tables import orders
from tests.central_command.rig import Central, DeviceClient, Person, Refused, do
from tests.central_command.test_checkins import incidents_of


def issue(device: DeviceClient, kind: str = "run_checks", role: Role = Role.OPERATOR, **more: Any) -> Any:
    person = Person(device.central, role)
    return person.session.post(
        f"{device.central.url}/api/v1/devices/{device.device_id}/orders", json={"type": kind, **more},
        headers={"Origin": device.central.url, "X-CSRF-Token": person.csrf}, timeout=20,
    )


def state_of(device: DeviceClient, order_id: str) -> dict[str, Any]:
    return dict(device.central.query(sa.select(orders).where(orders.c.id == order_id))[0])


STORE_PATH = "/nix/store/" + "a" * 32 + "-nixos-system-t640-26.11"
NEEDED = {OrderType.NIXOS_REBUILD: {"store_path": STORE_PATH}}


@pytest.mark.parametrize("kind", list(OrderType))
def test_every_order_goes_from_the_operator_to_the_device_and_back(central: Central, kind: OrderType) -> None:
    device = central.device()
    made = issue(device, kind.value, parameters=NEEDED.get(kind, {})).json()
    assert made["state"] == "pending" and made["issued_by"] == "operator"
    order, = device.orders(device.check_in())
    assert admissible(order, device.device_id, time.time()) is kind and order.order_id == made["id"]
    assert state_of(device, order.order_id)["state"] == "delivered"
    assert device.result(order.order_id, OrderState.EXECUTING, "began") is False
    assert state_of(device, order.order_id)["state"] == "executing"
    assert device.result(order.order_id, OrderState.COMPLETED, "16 checks ran") is False
    row = state_of(device, order.order_id)
    assert (row["state"], row["reason"]) == ("completed", "16 checks ran") and row["finished_at"] is not None
    assert device.check_in().orders == ()


def test_an_order_is_for_one_device_and_signed_by_the_server(central: Central) -> None:
    device, other = central.device(), central.device()
    issue(device)
    assert other.check_in().orders == ()
    envelope, = device.check_in().orders
    with pytest.raises(EnvelopeError):
        open_as(envelope, PayloadType.ORDER, [PrivateKey.generate().public], Order)


def test_an_order_whose_delivery_was_lost_is_delivered_again(central: Central) -> None:
    device = central.device()
    issue(device)
    first, = device.check_in().orders
    second, = device.check_in().orders
    assert first == second, "the very same bytes, so that the device knows it has seen it"


def test_an_order_in_progress_is_not_delivered_again(central: Central) -> None:
    device = central.device()
    issue(device, "update", parameters={"version": "2026.11.2"})
    order, = device.orders(device.check_in())
    assert order.parameters == {"version": "2026.11.2"}
    assert device.check_in(orders_in_progress=(order.order_id,)).orders == ()
    assert state_of(device, order.order_id)["state"] == "executing"


def test_a_result_sent_again_is_taken_once(central: Central) -> None:
    device = central.device()
    order_id = issue(device).json()["id"]
    at = time.time()
    assert device.result(order_id, OrderState.FAILED, "no space", at=at) is False
    assert device.result(order_id, OrderState.FAILED, "no space", at=at) is True
    assert device.result(order_id, OrderState.COMPLETED, "or was it?") is True
    row = state_of(device, order_id)
    assert row["state"] == "failed", "a final state stays"
    assert row["reason"] == "no space; later the device said completed: or was it?"


def test_a_refusal_keeps_its_reason(central: Central) -> None:
    device = central.device()
    order_id = issue(device).json()["id"]
    device.result(order_id, OrderState.REFUSED, "order type is not known to this version")
    assert state_of(device, order_id)["reason"] == "order type is not known to this version"


@pytest.mark.parametrize("state", [OrderState.PENDING, OrderState.DELIVERED])
def test_a_device_cannot_claim_what_only_the_server_knows(central: Central, state: OrderState) -> None:
    device = central.device()
    order_id = issue(device).json()["id"]
    with pytest.raises(Refused) as refused:
        device.result(order_id, state)
    assert refused.value.status == 422 and state_of(device, order_id)["state"] == "pending"


def test_a_device_cannot_answer_another_devices_order(central: Central) -> None:
    device, other = central.device(), central.device()
    order_id = issue(device).json()["id"]
    with pytest.raises(Refused) as refused:
        other.result(order_id, OrderState.COMPLETED)
    assert refused.value.status == 404
    assert state_of(device, order_id)["state"] == "pending" and incidents_of(other) == {"foreign-order": 1}


def test_one_update_at_a_time(central: Central) -> None:
    device = central.device()
    first = issue(device, "update", parameters={"version": "2026.11.2"}).json()["id"]
    second = issue(device, "update", parameters={"version": "2026.11.3"})
    assert second.status_code == 409 and "under way" in second.json()["detail"]
    device.result(first, OrderState.FAILED, "bad signature")
    assert issue(device, "update", parameters={"version": "2026.11.3"}).status_code == 201


def test_a_waiting_order_expires_by_the_servers_clock_with_a_reason(central: Central) -> None:
    device = central.device()
    order_id = issue(device).json()["id"]
    central.change(sa.update(orders).where(orders.c.id == order_id).values(expires_at=time.time() - 1))
    assert device.check_in().orders == ()
    row = state_of(device, order_id)
    assert row["state"] == "expired" and "before the device came" in row["reason"]


def test_an_order_for_a_device_that_never_comes_back_still_ends(central: Central) -> None:
    device = central.device()
    waiting, taken = issue(device).json()["id"], issue(device).json()["id"]
    device.result(taken, OrderState.EXECUTING)
    for order_id in (waiting, taken):
        past = {"expires_at": time.time() - 10, "deadline_at": time.time() - 5}
        central.change(sa.update(orders).where(orders.c.id == order_id).values(**past))

    async def sweep() -> None:
        async with central.database() as database, database.write() as connection:
            await desk.sweep(connection, time.time())

    do(sweep())
    assert state_of(device, waiting)["state"] == "expired"
    assert state_of(device, taken)["state"] == "failed" and "no result" in state_of(device, taken)["reason"]


def test_an_order_nobody_answers_is_given_up_after_its_attempts(central: Central) -> None:
    device = central.device()
    order_id = issue(device).json()["id"]
    for _ in range(20):
        assert len(device.check_in().orders) == 1
    assert device.check_in().orders == ()
    assert state_of(device, order_id)["reason"] == "delivered 20 times without an answer"


def test_who_may_give_orders(central: Central) -> None:
    device = central.device()
    assert issue(device, role=Role.READONLY).status_code == 403
    assert issue(device, role=Role.OPERATOR).status_code == 201


@pytest.mark.parametrize("body, status", [
    ({"type": "run_command"}, 422), ({"type": "update", "parameters": {"version": "../../etc"}}, 422),
    ({"type": "nixos_rebuild"}, 422), ({"type": "nixos_rebuild", "parameters": {"store_path": "/etc/passwd"}}, 422),
    ({"type": "nixos_rebuild", "parameters": {"store_path": STORE_PATH, "flake": "github:example/fleet#t640"}}, 422),
    ({"type": "nixos_rebuild", "parameters": {"store_path": STORE_PATH + "/../../x"}}, 422),
    ({"type": "nixos_rebuild", "parameters": {"store_path": STORE_PATH + "\n"}}, 422),
    ({"type": "nixos_rebuild", "parameters": {"flake": "path:/tmp/evil#t640"}}, 422),
    ({"type": "nixos_rebuild", "parameters": {"flake": "--impure"}}, 422),
    ({"type": "update", "parameters": {"store_path": STORE_PATH}}, 422),
    ({"type": "run_scan", "parameters": {"cidr": "0.0.0.0/0"}}, 422), ({"type": 5}, 422), ({}, 422),
    ({"type": "run_checks", "lifetime": -1}, 422), ({"type": "run_checks", "lifetime": 1e12}, 422),
])
def test_orders_that_make_no_sense_are_refused_with_a_problem_document(
    central: Central, body: dict[str, Any], status: int
) -> None:
    device = central.device()
    person = Person(central, Role.OPERATOR)
    answer = person.session.post(
        f"{central.url}/api/v1/devices/{device.device_id}/orders", json=body, timeout=20,
        headers={"Origin": central.url, "X-CSRF-Token": person.csrf},
    )
    assert answer.status_code == status and answer.headers["content-type"] == "application/problem+json"
    assert device.check_in().orders == ()


row = st.fixed_dictionaries({
    "id": st.sampled_from(["ord_1", "ord_2"]), "state": st.sampled_from(["pending", "delivered", "executing"]),
    "attempts": st.integers(0, 25), "expires_at": st.floats(0, 200), "reason": st.just(""),
    "delivered_at": st.none() | st.floats(0, 100), "started_at": st.none(), "finished_at": st.none(),
    "envelope": st.just("{}"),
})


@given(st.lists(row, max_size=4), st.sets(st.sampled_from(["ord_1", "ord_2"])), st.floats(0, 300))
def test_a_checkin_never_delivers_what_is_expired_worn_out_or_in_progress(
    waiting: list[dict[str, Any]], in_progress: set[str], now: float
) -> None:
    deliver, changes = desk.on_checkin(waiting, in_progress, now, 20)
    for change in changes:
        assert change["state"] in list(OrderState) and change["state"] != "pending"
        if OrderState(change["state"]).final:
            assert change["reason"] and change["finished_at"] == now
    fresh = [item for item in waiting if item["expires_at"] > now and item["attempts"] < 20]
    assert len(deliver) <= len([item for item in fresh if item["id"] not in in_progress])
