"""Are we all right, and since when? And what to do next."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from appliance_protocol.inventory import Device, Presence
from appliance_protocol.local_models import AgentStatus, ScannerStatus, ScorePoint
from appliance_protocol.verdict import CheckResult
from local_portal.charts import score_chart
from local_portal.controls import tally
from local_portal.judgement import Facts, judge
from local_portal.pages.devices import by_class
from local_portal.web import portal_of, render


async def overview(request: Request) -> Response:
    """The front page; every part of it is read at the same time and may be missing."""
    portal, now = portal_of(request), portal_of(request).clock.now()
    agent, checks, history, scanner, devices = await asyncio.gather(
        portal.agent.read("/v1/status", AgentStatus),
        portal.agent.read("/v1/checks", list[CheckResult]),
        portal.agent.read("/v1/score/history?days=30", list[ScorePoint]),
        portal.scanner.read("/v1/status", ScannerStatus),
        portal.scanner.read("/v1/devices", list[Device]),
    )
    updater = portal.updater.status()
    present = [device for device in devices.value or [] if device.presence is not Presence.GONE]
    return render(
        request, "overview.html",
        judgement=judge(Facts(now, agent, checks, history, scanner, updater)),
        agent=agent, checks=checks, history=history, scanner=scanner, devices=devices, updater=updater,
        tally=tally(checks.value or [], now), chart=score_chart(history.value or [], now),
        classes=by_class(present), present=len(present),
    )


ROUTES = [Route("/", overview)]
