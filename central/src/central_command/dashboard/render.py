"""Templates and what they need: times, durations, and a last sieve for text that came from a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from appliance_protocol.verdict import Verdict
from central_command import problems
from central_command.accounts import Role
from central_command.foreign import clean
from central_command.problems import ProblemError
from central_command.sessions import Session
from central_command.shown import ago, iso, percent, span, when

_HERE = Path(__file__).parent.parent
_MAX_SHOWN = 2000


def _finalise(value: Any) -> Any:
    """Every `{{ expression }}` goes through here: nothing a device wrote reaches a page with its control characters."""
    if value is None:
        return ""
    return clean(value, _MAX_SHOWN) if isinstance(value, str) and not isinstance(value, Markup) else value


def verdict_tone(verdict: Verdict, stale: bool) -> str:
    """Which of the four tones a verdict is shown in."""
    if verdict.conforms:
        return "warn" if stale else "good"
    if verdict is Verdict.FAIL:
        return "bad"
    return "warn" if verdict.counts else "quiet"


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, finalize=_finalise,
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(when=when, iso=iso, span=span, ago=ago, percent=percent)
_ENVIRONMENT.globals.update(verdict_tone=verdict_tone, Role=Role)


def page(request: Request, template: str, session: Session | None, *, status: int = 200, **values: Any) -> Response:
    """A page. `session` decides what the navigation offers."""
    shown = _ENVIRONMENT.get_template(template).render(
        session=session, path=request.url.path, notice=request.query_params.get("done", "")[:40], **values
    )
    return HTMLResponse(shown, status, headers={"Cache-Control": "no-store"})


def problem(request: Request, error: ProblemError) -> Response:
    """A problem as a page for a browser, as problem+json for everything else."""
    if "text/html" not in request.headers.get("accept", "") or request.url.path.startswith("/api/"):
        return problems.response(error)
    answer = page(request, "problem.html", None, status=error.status, problem=error)
    answer.headers.update(error.headers)
    return answer


