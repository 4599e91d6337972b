"""The agent's `update` orders against the real updater on a simulated device, which shares only files with it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from appliance_protocol.evidence import Release
from appliance_protocol.orders import OrderState
from appliance_update import history
from compliance_agent.config import PathConfig
from compliance_agent.order_runner import OrderRunner
from compliance_agent.service import Agent
from tests.appliance_update.conftest import V1, V2, V3, World, key_directory, quick, world
from tests.appliance_update.simulator import boot
from tests.compliance_agent.agent_world import agent_in, config_in
from tests.compliance_agent.test_orders import begin, order, record, sweep

__all__ = ["key_directory", "quick", "world"]  # fixtures
SOON = 2.0
"""Seconds in which a step of the agent's loop has to come back, whatever the updater does."""


def beside(world: World, directory: Path) -> Agent:
    """An agent whose paths are the updater's on this device; made again it is the agent after a reboot."""
    directory.mkdir(exist_ok=True)
    requests = world.device.runtime / "requests"
    requests.mkdir(parents=True, exist_ok=True)
    paths: PathConfig = dataclasses.replace(
        config_in(directory).paths,
        update_status=str(world.device.runtime / "status.json"),
        update_history=str(world.device.state / "history.jsonl"),
        update_requests=str(requests),
    )
    agent = agent_in(directory, paths=paths)
    agent.state.release = Release("t640", world.device.host.image_version)
    return agent


def update(order_id: str, version: str) -> object:
    return order("update", order_id, parameters={"version": version})


async def asked(agent: Agent, order_id: str, version: str) -> OrderRunner:
    return await asyncio.wait_for(begin(agent, update(order_id, version)), SOON)  # type: ignore[arg-type]


async def told(agent: Agent, runner: OrderRunner | None = None) -> None:
    await asyncio.wait_for(sweep(runner or agent.orders), SOON)


def finals(world: World) -> Counter[tuple[str, str]]:
    entries, _ = history.read(world.device.state / "history.jsonl")
    return Counter((entry.event, entry.order_id) for entry in entries if entry.event in history.FINAL)


async def test_an_order_that_comes_while_an_update_is_on_trial_waits_and_both_are_answered(
    world: World, tmp_path: Path
) -> None:
    world.publish(V2)
    agent = beside(world, tmp_path / "agent")
    await asked(agent, "order-1", V2)
    world.updater().run()
    boot(world.device, healthy=set(), limit=1)  # on trial
    agent.store.database.close()
    agent = beside(world, tmp_path / "agent")
    world.settle()
    world.publish(V3)
    await asked(agent, "order-2", V3)
    world.updater().run()
    await told(agent)
    assert record(agent, "order-1").message.startswith("trial")
    assert "comes after it" in record(agent, "order-2").message

    boot(world.device)
    agent.store.database.close()
    agent = beside(world, tmp_path / "agent")
    world.settle()
    await told(agent)
    assert record(agent, "order-1").state is OrderState.COMPLETED
    world.updater().run()  # the second order's turn
    boot(world.device)
    agent.store.database.close()
    agent = beside(world, tmp_path / "agent")
    world.settle()
    await told(agent)
    assert record(agent, "order-2").state is OrderState.COMPLETED
    assert finals(world) == {("committed", "order-1"): 1, ("committed", "order-2"): 1}


async def test_an_order_that_comes_during_a_rollback_learns_the_truth(world: World, tmp_path: Path) -> None:
    world.publish(V2)
    agent = beside(world, tmp_path / "agent")
    await asked(agent, "order-1", V2)
    world.updater().run()
    boot(world.device, healthy={V1})  # rolled back; nobody has written it down yet
    agent.store.database.close()
    agent = beside(world, tmp_path / "agent")
    await asked(agent, "order-2", V2)
    world.updater().run()
    await told(agent)
    assert record(agent, "order-1").state is OrderState.FAILED
    assert "rolled back" in record(agent, "order-1").message or "quarantined" in record(agent, "order-1").message
    world.updater().run()
    await told(agent)
    assert record(agent, "order-2").state is OrderState.FAILED
    answers = {("rolled_back", "order-1"): 1, ("quarantined", "order-1"): 1, ("quarantined", "order-2"): 1}
    assert finals(world) == answers


async def test_an_order_given_again_after_lost_acknowledgements_is_answered_from_the_history(
    world: World, tmp_path: Path
) -> None:
    """The agent forgot everything (its memory was restored, its disk replaced), the server asks once more."""
    world.publish(V2)
    await asked(beside(world, tmp_path / "before"), "order-1", V2)
    world.updater().run()
    boot(world.device, healthy={V1})
    world.settle()
    before = finals(world)
    for attempt in range(3):
        agent = beside(world, tmp_path / f"again-{attempt}")
        await asked(agent, "order-1", V2)
        world.updater().run()
        await told(agent)
        assert record(agent, "order-1").state is OrderState.FAILED
        assert "failed" in record(agent, "order-1").message or V2 in record(agent, "order-1").message
    assert finals(world) == before == {("rolled_back", "order-1"): 1, ("quarantined", "order-1"): 1}


async def test_a_committed_order_given_again_is_complete_again_and_nothing_is_installed(
    world: World, tmp_path: Path
) -> None:
    world.publish(V2)
    await asked(beside(world, tmp_path / "before"), "order-1", V2)
    world.updater().run()
    boot(world.device)
    world.settle()
    world.rebooted.clear()
    agent = beside(world, tmp_path / "again")
    await asked(agent, "order-1", V2)
    world.updater().run()
    await told(agent)
    assert record(agent, "order-1").state is OrderState.COMPLETED
    assert world.rebooted == []
    assert finals(world) == {("committed", "order-1"): 1}


async def test_a_later_update_that_nobody_ordered_is_not_put_down_to_an_old_order(world: World, tmp_path: Path) -> None:
    world.publish(V2)
    await asked(beside(world, tmp_path / "agent"), "order-1", V2)
    for version in (V2, V3):
        world.publish(version) if version != V2 else None
        world.updater().run()
        boot(world.device)
        world.settle()
    assert finals(world) == {("committed", "order-1"): 1, ("committed", ""): 1}


@pytest.mark.parametrize("damage", ["locked", "no status", "garbage"])
async def test_whatever_the_updater_does_the_agents_loop_goes_on(world: World, tmp_path: Path, damage: str) -> None:
    agent = beside(world, tmp_path / "agent")
    runner = await asked(agent, "order-1", V2)
    status = world.device.runtime / "status.json"
    if damage == "garbage":
        status.write_bytes(b"\0" * 1000)
    with world.updater().store.locked():
        for _ in range(5):
            await told(agent, runner)
    assert record(agent, "order-1").state is OrderState.EXECUTING


async def test_two_orders_at_once_are_carried_out_one_after_the_other(world: World, tmp_path: Path) -> None:
    agent = beside(world, tmp_path / "agent")
    await asked(agent, "order-1", V1)
    await asked(agent, "order-2", V2)
    world.publish(V2)
    for _ in range(3):
        world.updater().run()
        boot(world.device)
        world.settle()
        agent.store.database.close()
        agent = beside(world, tmp_path / "agent")
        await told(agent)
    assert record(agent, "order-2").state is OrderState.COMPLETED
    assert sum(finals(world).values()) <= 2
