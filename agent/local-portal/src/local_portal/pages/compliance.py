"""Compliance by control, and every check with what it does not prove."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import quote

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from appliance_protocol.local_models import AgentStatus
from appliance_protocol.verdict import CheckResult, Framework
from local_portal.charts import sparkline
from local_portal.controls import by_control, tally
from local_portal.portal import Portal
from local_portal.web import address_of, form_of, portal_of, render, say, see_other, session_of

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CHECKS_PATIENCE = 20.0
"""A full pass of the checks may take 5 seconds, and longer on a busy machine."""


async def _sparklines(portal: Portal, results: list[CheckResult], now: float) -> dict[str, Markup]:
    drawn: dict[str, Markup] = {}

    async def draw(check_id: str) -> None:
        answer = await portal.agent.read(f"/v1/checks/{quote(check_id)}/history?limit=24", list[CheckResult])
        if answer.value is not None:
            drawn[check_id] = sparkline(answer.value, now)

    await asyncio.gather(*(draw(result.check_id) for result in results[:60] if _ID.fullmatch(result.check_id)))
    return drawn


async def compliance(request: Request) -> Response:
    """Every control of a framework with its checks."""
    portal, now = portal_of(request), portal_of(request).clock.now()
    asked = request.query_params.get("framework", Framework.HIPAA.value)
    framework = Framework(asked) if asked in set(Framework) else Framework.HIPAA
    status, checks = await asyncio.gather(
        portal.agent.read("/v1/status", AgentStatus), portal.agent.read("/v1/checks", list[CheckResult]))
    results = checks.value or []
    return render(
        request, "compliance.html", framework=framework, status=status, checks=checks,
        controls=by_control(results, framework, now), tally=tally(results, now),
        sparklines=await _sparklines(portal, results, now),
        frameworks=[(Framework.HIPAA, "HIPAA Security Rule"), (Framework.SOC2, "SOC 2")],
    )


async def check(request: Request) -> Response:
    """One check: verdict, reason, source, what it does not prove, what to do, and how it went."""
    check_id: str = request.path_params["check_id"]
    portal, now = portal_of(request), portal_of(request).clock.now()
    if not _ID.fullmatch(check_id):
        raise HTTPException(404, "No check has such an identifier.")
    checks, history = await asyncio.gather(
        portal.agent.read("/v1/checks", list[CheckResult]),
        portal.agent.read(f"/v1/checks/{quote(check_id)}/history?limit=60", list[CheckResult]))
    result = next((item for item in checks.value or [] if item.check_id == check_id), None)
    if result is None and checks.ok:
        raise HTTPException(404, "The agent has no check of that name.")
    past = history.value or []
    return render(request, "check.html", 200 if result else 503, checks=checks, result=result, history=history,
                  past=past[:60], changes=_changes(past), spark=sparkline(past, now, 60), check_id=check_id)


def _changes(past: list[CheckResult]) -> list[CheckResult]:
    """Of a history (newest first) the results at which the verdict became another one, and the oldest."""
    return [result for place, result in enumerate(past)
            if place + 1 == len(past) or past[place + 1].verdict is not result.verdict]


async def run_checks(request: Request) -> Response:
    """Ask the agent for a full pass now."""
    fields = await form_of(request)
    portal = portal_of(request)
    answer = await portal.agent.call("POST", "/v1/checks/run", list[CheckResult], patience=_CHECKS_PATIENCE)
    portal.record(session_of(request).account, address_of(request), "checks", answer.problem or "run")
    if answer.value is None:
        say(request, f"The checks did not run through. {answer.problem}")
    else:
        say(request, f"All checks have run: {len(answer.value)} results, as of now.")
    return see_other("/" if fields.get("back") == "overview" else "/compliance")


ROUTES = [
    Route("/compliance", compliance),
    Route("/compliance/checks/{check_id}", check),
    Route("/checks", run_checks, methods=["POST"]),
]
