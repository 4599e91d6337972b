"""Orders: only the server's, only in time, only once, one at a time, and honestly reported."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.envelope import Envelope, PayloadType, Signature, seal
from appliance_protocol.evidence import Release
from appliance_protocol.inventory import ScanSummary
from appliance_protocol.keys import PrivateKey
from appliance_protocol.orders import Order, OrderState, OrderType
from appliance_protocol.wire import WireError, canonical
from compliance_agent.identity import Enrolment
from compliance_agent.order_runner import OrderRunner, read_order
from compliance_agent.orders.base import Done, OrderHandler, Services, Step, Waiting, discover
from compliance_agent.service import Agent
from compliance_agent.store import OrderRecord
from tests.compliance_agent.agent_world import SettableClock, agent_in
from tests.compliance_agent.central_peer import DEVICE

SERVER = PrivateKey.generate()
ENROLMENT = Enrolment(DEVICE, "site", "Site", "https://central.example", (SERVER.public.text,), 0.0)


def order(kind: str = "run_checks", order_id: str = "order-1", **changes: Any) -> Order:
    return dataclasses.replace(Order(order_id, DEVICE, kind, 0.0, 1e12), **changes)


def signed(what: object, key: PrivateKey = SERVER) -> Envelope:
    return seal(what, PayloadType.ORDER, key)


class Scripted(OrderHandler):
    """Does what the test says."""

    type = OrderType.RUN_CHECKS
    deadline = 1.0

    def __init__(self, *steps: Step | Exception | float) -> None:
        self.steps = list(steps)
        self.calls: list[str] = []
        self.inside = 0

    async def start(self, order: Order, services: Services) -> Step:
        return await self._next("start")

    async def poll(self, order: Order, context: dict[str, str], services: Services) -> Step:
        return await self._next("poll")

    async def _next(self, name: str) -> Step:
        self.calls.append(name)
        self.inside += 1
        assert self.inside == 1, "two orders at a time"
        try:
            step = self.steps.pop(0)
            if isinstance(step, float):
                await asyncio.sleep(step)
                return Done("late")
            if isinstance(step, BaseException):
                raise step
            return step
        finally:
            self.inside -= 1


async def run(agent: Agent, handler: OrderHandler, *envelopes: Envelope) -> OrderRunner:
    runner = OrderRunner(agent.store, {handler.type: handler}, agent)
    await runner.accept(envelopes, ENROLMENT)
    await sweep(runner)
    return runner


async def sweep(runner: OrderRunner) -> None:
    while await runner.step(DEVICE):
        pass


def record(agent: Agent, order_id: str = "order-1") -> OrderRecord:
    found = agent.store.order(order_id)
    assert found is not None
    return found


async def test_an_order_of_the_server_is_carried_out(tmp_path: Path) -> None:
    agent = agent_in(tmp_path)
    await run(agent, Scripted(Done("done", {"a": "b"})), signed(order()))
    assert (record(agent).state, record(agent).details) == (OrderState.COMPLETED, {"a": "b"})


@pytest.mark.parametrize(
    "envelope",
    [
        signed(order(), PrivateKey.generate()),
        seal(order(), PayloadType.REPLY, SERVER),
        dataclasses.replace(signed(order()), signatures=()),
        dataclasses.replace(signed(order()), payload="e30="),
        Envelope(PayloadType.ORDER.value, "%%%", (Signature("k", "s"),)),
        signed({"order_id": "x"}),
        signed(dataclasses.replace(order(), order_id="")),
        signed(dataclasses.replace(order(), order_id="x" * 81)),
        signed(dataclasses.replace(order(), order_id="a\nb")),
        signed(dataclasses.replace(order(), parameters={"x": "y" * 70_000})),
    ],
)
async def test_what_is_not_the_servers_order_is_not_taken(tmp_path: Path, envelope: Envelope) -> None:
    agent = agent_in(tmp_path)
    handler = Scripted()
    await run(agent, handler, envelope)
    assert handler.calls == []
    assert agent.store.open_orders() == []
    assert agent.store.unreported_orders() == []


@given(st.binary(max_size=200), st.binary(max_size=80))
def test_no_envelope_makes_the_reader_raise_anything_but_its_own_error(payload: bytes, signature: bytes) -> None:
    for kind in (PayloadType.ORDER.value, "text/plain"):
        said = Signature(SERVER.public.key_id, base64.b64encode(signature).decode())
        envelope = Envelope(kind, base64.b64encode(payload).decode(), (said,))
        with pytest.raises(WireError):
            read_order(envelope, ENROLMENT)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Order)]), JSON))
def test_a_signed_order_of_any_shape_is_an_order_or_an_error(document: dict[str, Any]) -> None:
    try:
        found = read_order(signed(document), ENROLMENT)
    except WireError:
        return
    assert isinstance(found.parameters, dict)


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"type": "reboot_now"}, OrderState.REFUSED, "'reboot_now' is not known to this version"),
        ({"device_id": "dev-other"}, OrderState.REFUSED, "is for device 'dev-other'"),
        ({"expires_at": 1.0}, OrderState.EXPIRED, "expired"),
    ],
)
async def test_an_order_that_must_not_run_is_answered_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], state: OrderState, words: str
) -> None:
    agent = agent_in(tmp_path)
    handler = Scripted()
    runner = await run(agent, handler, signed(order(**changes)))
    (result,) = await runner.unreported(DEVICE)
    assert (result.state, handler.calls) == (state, [])
    assert words in result.message


async def test_expiry_is_by_the_servers_clock_and_not_by_the_devices(tmp_path: Path) -> None:
    from compliance_agent.state import ServerClock

    clock = SettableClock(wall=100.0)  # this box thinks it is 1970
    agent = agent_in(tmp_path, clock=clock)
    agent.state.server_clock = ServerClock(1_800_000_000.0, clock.read().monotonic)
    runner = await run(agent, Scripted(), signed(order(expires_at=1_790_000_000.0)))
    (result,) = await runner.unreported(DEVICE)
    assert result.state is OrderState.EXPIRED
    assert result.at == pytest.approx(1_800_000_000.0, abs=60)


async def test_the_same_order_twice_is_one_order(tmp_path: Path) -> None:
    agent = agent_in(tmp_path)
    handler = Scripted(Done("once"))
    runner = await run(agent, handler, signed(order()), signed(order()))
    await runner.accept([signed(order())], ENROLMENT)
    await sweep(runner)
    assert handler.calls == ["start"]


async def test_a_handler_that_raises_fails_its_order_and_nothing_else(tmp_path: Path) -> None:
    agent = agent_in(tmp_path)
    handler = Scripted(AttributeError("no attribute 'mcp_url'"), Done("fine"))
    await run(agent, handler, signed(order()), signed(order(order_id="order-2")))
    assert record(agent).state is OrderState.FAILED
    assert "no attribute 'mcp_url'" in record(agent).message
    assert record(agent, "order-2").state is OrderState.COMPLETED


async def test_a_handler_past_its_deadline_fails_its_order(tmp_path: Path) -> None:
    agent = agent_in(tmp_path)
    handler = Scripted(30.0)
    handler.deadline = 0.05  # type: ignore[misc]
    await run(agent, handler, signed(order()))
    assert record(agent).state is OrderState.FAILED
    assert "not carried out within" in record(agent).message


async def test_a_waiting_order_survives_a_restart_and_holds_up_no_other(tmp_path: Path) -> None:
    agent = agent_in(tmp_path)
    handler = Scripted(Waiting({"step": "1"}, "half way"), Done("quick one"))
    await run(agent, handler, signed(order()), signed(order(order_id="order-2")))
    assert record(agent, "order-2").state is OrderState.COMPLETED
    assert (record(agent).state, record(agent).context) == (OrderState.EXECUTING, {"step": "1"})
    later = Scripted(Done("whole"))
    restarted = OrderRunner(agent.store, {later.type: later}, agent)
    await sweep(restarted)
    assert (record(agent).message, later.calls) == ("whole", ["poll"])


async def test_an_order_that_begun_in_time_may_end_after_its_expiry(tmp_path: Path) -> None:
    clock = SettableClock()
    agent = agent_in(tmp_path, clock=clock)
    handler = Scripted(Waiting({"a": "b"}), Done("late, but whole"))
    runner = await run(agent, handler, signed(order(expires_at=clock.read().wall + 60)))
    clock.advance(600)
    await sweep(runner)
    assert record(agent).state is OrderState.COMPLETED


async def test_an_order_that_never_ends_fails_when_patience_does(tmp_path: Path) -> None:
    clock = SettableClock()
    agent = agent_in(tmp_path, clock=clock)
    handler = Scripted(Waiting({"a": "b"}, "still running"), Waiting({"a": "b"}, "still running"))
    runner = await run(agent, handler, signed(order()))
    clock.advance(handler.patience + 1)
    await sweep(runner)
    assert record(agent).state is OrderState.FAILED
    assert "still running" in record(agent).message


async def test_an_order_that_kills_the_agent_is_tried_three_times_and_then_given_up(tmp_path: Path) -> None:
    agent = agent_in(tmp_path)

    class Killed(BaseException):
        pass

    handler = Scripted(*(Killed() for _ in range(5)))  # type: ignore[arg-type]
    runner = OrderRunner(agent.store, {handler.type: handler}, agent)
    await runner.accept([signed(order())], ENROLMENT)
    for _ in range(3):
        with pytest.raises(Killed):
            await OrderRunner(agent.store, {handler.type: handler}, agent).step(DEVICE)
    await sweep(OrderRunner(agent.store, {handler.type: handler}, agent))
    assert handler.calls == ["start"] * 3
    assert record(agent).state is OrderState.FAILED
    assert "cut off 3 times" in record(agent).message


async def test_an_outcome_the_disk_did_not_take_is_not_brought_about_twice(tmp_path: Path) -> None:
    from compliance_agent.database import StoreFull

    agent = agent_in(tmp_path)
    handler = Scripted(Done("done"))
    runner = OrderRunner(agent.store, {handler.type: handler}, agent)
    await runner.accept([signed(order())], ENROLMENT)
    save = agent.store.save_order

    def full(record: OrderRecord) -> None:
        if record.state.final:
            raise StoreFull("the state disk is full")
        save(record)

    agent.store.save_order = full  # type: ignore[method-assign]
    with pytest.raises(StoreFull):
        await runner.step(DEVICE)
    agent.store.save_order = save  # type: ignore[method-assign]
    await sweep(runner)
    await sweep(runner)
    assert handler.calls == ["start"]
    assert record(agent).state is OrderState.COMPLETED


# -- run_scan, against a scanner that listens on a real socket --


class _UnixServer(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def scanner(tmp_path: Path) -> Iterator[list[ScanSummary]]:
    answers: list[ScanSummary] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = canonical(answers[0] if len(answers) == 1 else answers.pop(0))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer

        def log_message(self, *arguments: object) -> None:
            pass

        def address_string(self) -> str:
            return "unix"

    server = _UnixServer(str(tmp_path / "scanner.sock"), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield answers
    server.shutdown()
    server.server_close()


async def test_a_scan_is_complete_when_the_scanner_says_so(tmp_path: Path, scanner: list[ScanSummary]) -> None:
    running = ScanSummary("scan-1", 1.0, None, "10.77.0.0/24", 0, 0)
    scanner += [running, dataclasses.replace(running, finished_at=2.0, hosts_up=12)]
    agent = agent_in(tmp_path)
    runner = await run(agent, discover()[OrderType.RUN_SCAN], signed(order("run_scan")))
    assert record(agent).state is OrderState.EXECUTING
    await sweep(runner)
    assert record(agent).message == "Scan scan-1 of 10.77.0.0/24 found 12 devices."


async def test_a_scan_that_failed_is_a_failed_order(tmp_path: Path, scanner: list[ScanSummary]) -> None:
    scanner += [ScanSummary("scan-1", 1.0, 2.0, "10.77.0.0/24", 0, 0, "the interface is down")]
    agent = agent_in(tmp_path)
    await run(agent, discover()[OrderType.RUN_SCAN], signed(order("run_scan")))
    assert (record(agent).state, "the interface is down" in record(agent).message) == (OrderState.FAILED, True)


# -- update, against the updater's files --


class Updater:
    """The updater's files, written as it writes them."""

    def __init__(self, directory: Path) -> None:
        self.requests = directory / "requests"
        self.status_file = directory / "status.json"
        self.history_file = directory / "history.jsonl"

    def take(self) -> list[dict[str, Any]]:
        taken = [json.loads(path.read_text()) for path in sorted(self.requests.glob("*.json"))]
        for path in self.requests.iterdir():
            path.unlink()
        return taken

    def status(self, state: str, **fields: Any) -> None:
        self.status_file.write_text(json.dumps({"format": 1, "state": state, "updated_at": 1.0, **fields}))

    def event(self, event: str, **fields: Any) -> None:
        with self.history_file.open("a") as file:
            file.write(json.dumps({"format": 1, "at": 1.0, "event": event, **fields}) + "\n")


@pytest.fixture
def updater(tmp_path: Path) -> Updater:
    return Updater(tmp_path)


WANTED = order("update", parameters={"version": "2026.11.2"})


async def begin(agent: Agent, wanted: Order = WANTED) -> OrderRunner:
    return await run(agent, discover()[OrderType.UPDATE], signed(wanted))


async def test_an_update_is_requested_and_completes_only_when_it_is_committed(tmp_path: Path, updater: Updater) -> None:
    agent = agent_in(tmp_path)
    runner = await begin(agent)
    assert updater.take() == [{"order_id": "order-1", "requested_at": 0.0, "version": "2026.11.2"}]
    for state in ("checking", "downloading", "verifying", "staging", "armed", "trial"):
        updater.status(state, order_id="order-1", candidate_version="2026.11.2")
        await sweep(runner)
        assert record(agent).state is OrderState.EXECUTING
        assert record(agent).message.startswith(state)
    updater.event("trial_started", version="2026.11.2", order_id="order-1")
    await sweep(runner)
    assert record(agent).state is OrderState.EXECUTING
    updater.event("committed", version="2026.11.2", from_version="2026.11.1", order_id="order-1")
    await sweep(runner)
    assert record(agent).state is OrderState.COMPLETED
    assert record(agent).details is not None
    assert record(agent).details["from_version"] == "2026.11.1"


async def test_an_update_survives_the_reboot_it_causes(tmp_path: Path, updater: Updater) -> None:
    agent = agent_in(tmp_path)
    await begin(agent)
    agent.store.database.close()
    updater.event("committed", version="2026.11.2", order_id="order-1")
    updater.status("committed")
    rebooted = agent_in(tmp_path)
    await sweep(rebooted.orders)
    assert record(rebooted).state is OrderState.COMPLETED


@pytest.mark.parametrize("event", ["rolled_back", "quarantined"])
async def test_an_update_that_did_not_hold_is_a_failed_order_with_the_updaters_reason(
    tmp_path: Path, updater: Updater, event: str
) -> None:
    agent = agent_in(tmp_path)
    runner = await begin(agent)
    updater.event(event, version="2026.11.2", reason="the portal did not answer", order_id="order-1")
    updater.status("idle")
    await sweep(runner)
    assert record(agent).state is OrderState.FAILED
    assert "the portal did not answer" in record(agent).message


async def test_another_orders_outcome_is_not_ours(tmp_path: Path, updater: Updater) -> None:
    agent = agent_in(tmp_path)
    updater.event("committed", version="2026.11.2", order_id="order-0")
    updater.event("committed", version="2026.11.2")
    runner = await begin(agent)
    updater.status("checking", order_id="order-1")
    await sweep(runner)
    assert record(agent).state is OrderState.EXECUTING


async def test_another_version_than_ordered_is_no_success(tmp_path: Path, updater: Updater) -> None:
    agent = agent_in(tmp_path)
    runner = await begin(agent)
    updater.event("committed", version="2026.11.9", order_id="order-1")
    await sweep(runner)
    assert (record(agent).state, "2026.11.2 was ordered" in record(agent).message) == (OrderState.FAILED, True)


async def test_a_request_lost_in_a_reboot_is_made_again_and_not_for_ever(tmp_path: Path, updater: Updater) -> None:
    clock = SettableClock()
    agent = agent_in(tmp_path, clock=clock)
    runner = await begin(agent)
    updater.status("idle")
    for expected in (1, 1, 1, 0):
        assert len(updater.take()) == expected
        clock.advance(301)
        await sweep(runner)
    assert record(agent).state is OrderState.FAILED
    assert "asked 3 times: the updater did not take the request" in record(agent).message


async def test_a_repository_that_cannot_be_reached_is_asked_again_and_then_told(
    tmp_path: Path, updater: Updater
) -> None:
    clock = SettableClock()
    agent = agent_in(tmp_path, clock=clock)
    runner = await begin(agent)
    for _ in range(3):
        updater.event("check_failed", reason="no route to host", order_id="order-1")
        updater.status("idle", order_id="order-1", last_check_error="no route to host")
        await sweep(runner)
        clock.advance(301)
        await sweep(runner)
    assert record(agent).state is OrderState.FAILED
    assert "no route to host" in record(agent).message


async def test_a_status_that_cannot_be_read_is_neither_success_nor_failure(tmp_path: Path, updater: Updater) -> None:
    clock = SettableClock()
    agent = agent_in(tmp_path, clock=clock)
    runner = await begin(agent)
    updater.status_file.write_bytes(b"\0\0garbage")
    await sweep(runner)
    assert record(agent).state is OrderState.EXECUTING
    assert "cannot be read" in record(agent).message
    clock.advance(86401)
    await sweep(runner)
    assert record(agent).state is OrderState.FAILED


async def test_a_version_that_runs_already_is_complete_only_when_the_updater_is_at_rest(
    tmp_path: Path, updater: Updater
) -> None:
    agent = agent_in(tmp_path)
    agent.state.release = Release("t640", "2026.11.2")
    updater.status("trial", candidate_version="2026.11.2")
    await begin(agent)
    assert record(agent).state is OrderState.EXECUTING
    updater.status("idle")
    await run(agent, discover()[OrderType.UPDATE], signed(dataclasses.replace(WANTED, order_id="order-2")))
    assert record(agent, "order-2").state is OrderState.COMPLETED


async def test_without_a_version_no_news_is_a_good_outcome(tmp_path: Path, updater: Updater) -> None:
    agent = agent_in(tmp_path)
    runner = await begin(agent, order("update"))
    updater.status("idle", order_id="order-1", last_check_at=2.0, last_check_error="")
    await sweep(runner)
    assert record(agent).message == "There is no newer release for this device."


@pytest.mark.parametrize("version", ["../../etc/passwd", "2026.11.2; reboot", "", "x" * 65, "2026_11"])
async def test_a_hostile_version_never_reaches_the_updater(tmp_path: Path, updater: Updater, version: str) -> None:
    agent = agent_in(tmp_path)
    await begin(agent, order("update", parameters={"version": version}))
    if version:
        assert record(agent).state is OrderState.FAILED
        assert updater.take() == []
    else:
        assert "version" not in updater.take()[0]


async def test_a_hostile_order_id_never_becomes_a_path(tmp_path: Path, updater: Updater) -> None:
    agent = agent_in(tmp_path)
    await begin(agent, dataclasses.replace(WANTED, order_id="../escape"))
    assert record(agent, "../escape").state is OrderState.FAILED
    assert not (tmp_path / "escape.json").exists()


async def test_without_an_updater_the_order_says_so(tmp_path: Path, updater: Updater) -> None:
    agent = agent_in(tmp_path)
    updater.requests.rmdir()
    await begin(agent)
    assert "is the updater installed?" in record(agent).message
