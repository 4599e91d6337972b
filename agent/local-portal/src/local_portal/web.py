"""What pages have in common: the template environment, the reader's session, redirects and errors."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from appliance_protocol.inventory import DeviceClass, Presence, ScanPolicy
from local_portal import FOLDER, charts, forms, moments, text
from local_portal.controls import Standing
from local_portal.controls import standing as standing_of
from local_portal.portal import Portal
from local_portal.sessions import Session

SESSION_COOKIE = "__Host-session"
VISIT_COOKIE = "__Host-visit"
Handler = Callable[[Request], Awaitable[Response]]


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Jinja with everything escaped and cleaned that is not markup already."""
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, finalize=text.finalize,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False,
    )
    made.filters.update(
        short=text.short, plain=text.plain, document=text.document,
        duration=moments.duration, size=moments.size, plural=moments.plural)
    made.globals.update(
        asset=asset, bar=charts.bar, Part=charts.Part, Standing=Standing, DeviceClass=DeviceClass,
        ScanPolicy=ScanPolicy, Presence=Presence,
    )
    return made


@lru_cache(maxsize=1)
def static_files() -> dict[str, bytes]:
    """Style sheet, script, font and icon; all of them are small."""
    return {file.name: file.read_bytes() for file in (FOLDER / "static").iterdir() if file.is_file()}


@lru_cache(maxsize=16)
def asset(name: str) -> str:
    """The address of a static file with its digest, so that browsers may keep it for ever."""
    return f"/static/{name}?v={hashlib.sha256(static_files()[name]).hexdigest()[:12]}"


def preload() -> None:
    """Compile every template before the first visitor has to wait for it."""
    made = environment()
    for name in made.list_templates():
        made.get_template(name)


def portal_of(request: Request) -> Portal:
    """The portal's parts."""
    found: Portal = request.app.state.portal
    return found


def session_of(request: Request) -> Session:
    """The reader's session; only pages behind the gate may ask."""
    session: Session = request.scope["portal_session"]
    return session


def address_of(request: Request) -> str:
    """Where the request comes from."""
    return request.client.host if request.client else "unknown"


def render(request: Request, template: str, code: int = 200, **context: Any) -> Response:
    """A page. Everything the layout needs is added here."""
    portal, now = portal_of(request), portal_of(request).clock.now()
    session: Session | None = request.scope.get("portal_session")
    visit = request.cookies.get(VISIT_COOKIE, "")
    fresh = "" if session or len(visit) == 43 else secrets.token_urlsafe(32)
    page = environment().get_template(template).render(
        account=session.account if session else "",
        token=portal.form_token(session.token if session else fresh or visit),
        notice=portal.sessions.take_notice(session) if session else "",
        path=request.url.path,
        now=now,
        moment=partial(moments.moment, now=now),
        ago=partial(moments.ago, now=now),
        standing=partial(standing_of, now=now),
        **context,
    )
    response = HTMLResponse(page, code)
    if fresh:
        set_cookie(response, VISIT_COOKIE, fresh)
    return response


def set_cookie(response: Response, name: str, value: str) -> None:
    """A cookie for this host and this browser session, invisible to scripts and to other sites."""
    response.set_cookie(name, value, path="/", secure=True, httponly=True, samesite="strict")


async def form_of(request: Request) -> dict[str, str]:
    """The form's fields, its token checked. Raises `forms.FormError`."""
    session: Session | None = request.scope.get("portal_session")
    cookie = session.token if session else request.cookies.get(VISIT_COOKIE, "")
    if not cookie:
        raise forms.FormError(403, "Your browser sent no cookie. Allow cookies for this address, reload and try again.")
    return await forms.read(request, portal_of(request).form_token(cookie))


def see_other(path: str) -> Response:
    """After a form: go and look."""
    return RedirectResponse(path, 303)


def say(request: Request, sentence: str) -> None:
    """Show a sentence on the next page."""
    portal_of(request).sessions.leave_notice(session_of(request), text.clean(sentence, 500))


def safe_next(target: str) -> str:
    """Where to go after login: a path of our own, or the front page."""
    plain = target.isascii() and target.isprintable() and len(target) <= 300
    if not plain or not target.startswith("/") or target.startswith(("//", "/login", "/claim", "/logout")):
        return "/"
    return "/" if "\\" in target else target


def login_address(request: Request) -> str:
    """The login page, which afterwards leads back to here."""
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    target = safe_next(here)
    return "/login" if target == "/" else f"/login?next={quote(target, safe='')}"


def problem(request: Request, status: int, title: str, detail: str) -> Response:
    """An error as a page that says what happened and what to do."""
    return render(request, "problem.html", status, title=title, detail=detail)
