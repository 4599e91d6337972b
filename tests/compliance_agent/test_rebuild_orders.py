"""The agent's `nixos_rebuild` orders against the real updater of a generation host, which trusts none of them."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest

from appliance_protocol.evidence import Release
from appliance_protocol.orders import Order, OrderState, OrderType
from appliance_update.updater import UpdateError
from compliance_agent.orders.base import discover
from compliance_agent.service import Agent
from tests.appliance_update.conftest import quick
from tests.appliance_update.nixos_host import FLAKE, NixosHost
from tests.compliance_agent.agent_world import agent_in, config_in
from tests.compliance_agent.test_orders import order, record, run, signed, sweep

__all__ = ["quick"]  # a fixture


@pytest.fixture
def host(quick: Path) -> NixosHost:
    made = NixosHost(quick / "root")
    made.deploy(made.system("one", "2026.11.1"))
    settle(made)
    return made


def settle(host: NixosHost) -> None:
    updater = host.updater()
    with updater.store.locked():
        updater.settle()


def beside(host: NixosHost, directory: Path) -> Agent:
    """An agent whose paths are the updater's on this host; made again it is the agent after a reboot."""
    directory.mkdir(exist_ok=True)
    runtime, state = host.root / "run/appliance-update", host.root / "var/lib/appliance-update"
    (runtime / "requests").mkdir(parents=True, exist_ok=True)
    paths = dataclasses.replace(
        config_in(directory).paths,
        update_status=str(runtime / "status.json"),
        update_history=str(state / "history.jsonl"),
        update_requests=str(runtime / "requests"),
    )
    agent = agent_in(directory, paths=paths)
    agent.state.release = Release("t640", "2026.11.1")
    return agent


def rebuild(order_id: str, **parameters: str) -> Order:
    return order("nixos_rebuild", order_id, parameters=parameters)


async def begin(agent: Agent, wanted: Order) -> None:
    await run(agent, discover()[OrderType.NIXOS_REBUILD], signed(wanted))


async def answered(host: NixosHost, agent: Agent) -> None:
    """The updater's turn, and then the agent's."""
    with contextlib.suppress(UpdateError):
        host.updater().run()
    await sweep(agent.orders)


async def test_a_rebuild_is_completed_only_when_the_generation_is_committed(host: NixosHost, tmp_path: Path) -> None:
    path = host.system("two", "2026.11.2")
    host.signed_paths.add(path)
    agent = beside(host, tmp_path / "agent")
    await begin(agent, rebuild("order-1", store_path=path))
    await answered(host, agent)
    assert record(agent, "order-1").state is OrderState.EXECUTING
    host.boot()
    agent.store.database.close()
    agent = beside(host, tmp_path / "agent")
    settle(host)
    await sweep(agent.orders)
    assert record(agent, "order-1").state is OrderState.COMPLETED


async def test_a_rebuild_that_does_not_prove_itself_has_failed_with_the_reason(host: NixosHost, tmp_path: Path) -> None:
    old = host.running
    host.built[FLAKE] = host.system("two", "2026.11.2")
    agent = beside(host, tmp_path / "agent")
    await begin(agent, rebuild("order-1", flake=FLAKE))
    await answered(host, agent)
    host.boot(healthy=[old])
    settle(host)
    await sweep(agent.orders)
    assert record(agent, "order-1").state is OrderState.FAILED
    assert "boots did not prove it" in record(agent, "order-1").message


async def test_what_the_updater_refuses_is_answered_with_its_reason(host: NixosHost, tmp_path: Path) -> None:
    agent = beside(host, tmp_path / "agent")
    await begin(agent, rebuild("order-1", flake="github:attacker/fleet#t640"))
    await begin(agent, rebuild("order-2", store_path=host.system("two", "2026.11.2")))
    await answered(host, agent)
    await answered(host, agent)
    for order_id, word in (("order-1", "not in this host's list"), ("order-2", "signed by none")):
        assert record(agent, order_id).state is OrderState.REFUSED
        assert word in record(agent, order_id).message


@pytest.mark.parametrize("parameters", [
    {}, {"store_path": "/etc/passwd"}, {"store_path": "--option"}, {"flake": "/tmp/evil"}, {"flake": "a"},
    {"flake": FLAKE, "store_path": "/nix/store/" + "a" * 32 + "-x"}, {"store_path": "/nix/store/" + "a" * 32 + "-x\n"},
])  # fmt: skip
async def test_a_rebuild_that_names_no_system_asks_nobody(
    host: NixosHost, tmp_path: Path, parameters: dict[str, str]
) -> None:
    agent = beside(host, tmp_path / "agent")
    await begin(agent, rebuild("order-1", **parameters))
    assert record(agent, "order-1").state is OrderState.FAILED
    assert not list((host.root / "run/appliance-update/requests").iterdir())


async def test_an_image_refuses_a_rebuild(host: NixosHost, tmp_path: Path) -> None:
    agent = beside(host, tmp_path / "agent")
    status = host.root / "run/appliance-update/status.json"
    status.write_text('{"state": "idle", "slots": {"a": {"state": "booted"}, "b": {"state": "empty"}}}')
    await begin(agent, rebuild("order-1", flake=FLAKE))
    assert record(agent, "order-1").state is OrderState.REFUSED
    assert "image" in record(agent, "order-1").message
