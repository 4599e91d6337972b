"""The local API on its unix socket, as the portal uses it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance_protocol.envelope import Envelope
from appliance_protocol.evidence import EvidenceCause
from appliance_protocol.local import LocalServiceError, request
from appliance_protocol.local_models import AgentStatus, EvidenceEntry, ScorePoint
from appliance_protocol.verdict import CheckResult, Verdict
from compliance_agent.api import LocalApi
from compliance_agent.enrolling import enrol
from compliance_agent.identity import Invitation
from compliance_agent.service import Agent
from tests.compliance_agent.agent_world import SettableCheck, agent_in
from tests.compliance_agent.central_peer import CODE, DEVICE, CentralPeer


class Served:
    """An agent whose API is up."""

    def __init__(self, agent: Agent, check: SettableCheck, path: Path) -> None:
        self.agent, self.check, self.path = agent, check, path

    async def get(self, resource: str, model: Any, method: str = "GET") -> Any:
        return await asyncio.to_thread(request, self.path, method, resource, model)

    async def raw(self, sent: bytes) -> bytes:
        def talk() -> bytes:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self.path))
                connection.sendall(sent)
                received = b""
                while b"\r\n\r\n" not in received and (chunk := connection.recv(65536)):
                    received += chunk
                return received

        return await asyncio.to_thread(talk)


@pytest.fixture
async def served(tmp_path: Path, central: CentralPeer) -> AsyncIterator[Served]:
    check = SettableCheck()
    agent = agent_in(tmp_path, check)
    enrol(agent.config.central, agent.identity, Invitation(central.url, CODE, central.ca_file.read_text()), agent.clock)
    await agent._identity()
    await agent._checks()
    await agent._evidence()
    api = LocalApi(agent, tmp_path / "runtime/api.sock")
    await api.tend()
    async with asyncio.timeout(5):
        while api._server is None or not api._server.started:
            await asyncio.sleep(0.01)
    yield Served(agent, check, tmp_path / "runtime/api.sock")
    await api.stop()


async def test_the_status_says_who_and_how_the_agent_is(served: Served) -> None:
    status = await served.get("/v1/status", AgentStatus)
    assert (status.device_id, status.enrolled, status.queue.pending) == (DEVICE, True, 1)
    assert (status.score.conforming, status.score.counted) == (1, 1)
    assert "not a slot of an image" in status.slot
    assert status.update.state == "unknown"


async def test_the_latest_verdicts_and_their_history(served: Served) -> None:
    (latest,) = await served.get("/v1/checks", list[CheckResult])
    assert latest.verdict is Verdict.PASS
    served.check.verdict = Verdict.FAIL
    (now,) = await served.get("/v1/checks/run", list[CheckResult], "POST")
    assert now.verdict is Verdict.FAIL
    history = await served.get("/v1/checks/settable/history?limit=5", list[CheckResult])
    assert [result.verdict for result in history] == [Verdict.FAIL, Verdict.PASS]


async def test_evidence_is_listed_and_shown_as_it_was_signed(served: Served) -> None:
    assert served.agent.key is not None
    await served.agent.writer.write(EvidenceCause.CHANGE, served.agent.key)
    entries = await served.get("/v1/evidence?limit=1", list[EvidenceEntry])
    assert [entry.sequence for entry in entries] == [2]
    older = await served.get("/v1/evidence?before=2&limit=10", list[EvidenceEntry])
    assert [(entry.sequence, entry.verdict_counts, entry.sent_at) for entry in older] == [(1, {"pass": 1}, None)]
    assert (await served.get("/v1/evidence/2", Envelope)).payload_bytes


async def test_the_score_over_time(served: Served) -> None:
    served.check.verdict = Verdict.FAIL
    await served.get("/v1/checks/run", list[CheckResult], "POST")
    points = await served.get("/v1/score/history?days=1", list[ScorePoint])
    assert [(point.conforming, point.counted) for point in points] == [(1, 1), (0, 1)]
    assert (await served.get("/v1/status", AgentStatus)).conforming_since is None


@pytest.mark.parametrize(
    ("resource", "words"),
    [
        ("/v1/checks/none/history", "404: .*there is no check 'none'"),
        ("/v1/evidence/99", "404: .*bundle 99 is not kept here"),
        ("/v1/evidence/99999999999999999999999", "404"),
        ("/v1/evidence?limit=0", "400: .*limit must be a number from 1 to 1000"),
        ("/v1/evidence?before=-1", "400"),
        ("/v1/evidence?before=%00", "400"),
        ("/v1/score/history?days=1e9", "400"),
        ("/v1/nothing", "404"),
        ("/v1/evidence/%27%20OR%201=1", "404"),
    ],
)
async def test_a_bad_request_gets_a_sentence(served: Served, resource: str, words: str) -> None:
    with pytest.raises(LocalServiceError, match=rf"answered {words}"):
        await served.get(resource, msgspec.Raw)


@pytest.mark.parametrize(
    "sent",
    [
        b"garbage\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"POST /v1/checks/run HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
async def test_garbage_on_the_socket_leaves_the_api_standing(served: Served, sent: bytes) -> None:
    with contextlib.suppress(OSError):
        await served.raw(sent + b"\r\n\r\n")
    assert (await served.get("/v1/status", AgentStatus)).enrolled


async def test_only_the_owner_and_the_group_may_connect(served: Served) -> None:
    mode = stat.S_IMODE(served.path.stat().st_mode)
    assert mode & 0o007 == 0
    assert mode in (0o600, 0o660)


async def test_an_api_that_ended_is_started_again(tmp_path: Path) -> None:
    agent = agent_in(tmp_path)
    api = LocalApi(agent, tmp_path / "runtime/api.sock")
    await api.tend()
    assert api._serving is not None
    api._serving.cancel()
    await asyncio.wait([api._serving])
    await api.tend()
    async with asyncio.timeout(5):
        while not api._server.started:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
    status = await asyncio.to_thread(request, tmp_path / "runtime/api.sock", "GET", "/v1/status", AgentStatus)
    assert not status.enrolled
    await api.stop()


async def test_a_disk_that_fails_is_a_503_with_the_reason(served: Served) -> None:
    served.agent.store.database.close()
    served.agent.store.database.path = Path("/proc/nowhere/agent.db")
    with pytest.raises(LocalServiceError, match=r"503: .*/proc/nowhere/agent\.db: unable to open"):
        await served.get("/v1/score/history", list[ScorePoint])
    assert (await served.get("/v1/status", AgentStatus)).enrolled
