"""Who is asking, by cookie or by API token, and whether the request is really theirs."""

from __future__ import annotations

import hmac
import urllib.parse

from starlette.requests import Request
from starlette.responses import Response

from central_command import sessions
from central_command.accounts import Role
from central_command.audit import Actor
from central_command.problems import ProblemError
from central_command.services import Services
from central_command.sessions import Session
from central_command.settings import Settings

MAX_FIELDS = 40


class LoginNeeded(Exception):
    """Nobody is logged in; the page to return to is `target`."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.target = target


def cookie_name(settings: Settings) -> str:
    """`__Host-` makes browsers refuse the cookie without HTTPS, for a subdomain, or for part of the site."""
    return "__Host-central-session" if settings.secure else "central-session"


def set_cookie(response: Response, settings: Settings, token: str) -> None:
    """Give the browser its session."""
    response.set_cookie(
        cookie_name(settings), token, max_age=settings.session_lifetime, path="/", secure=settings.secure,
        httponly=True, samesite="lax",
    )


def actor(request: Request, session: Session) -> Actor:
    """Who goes into the audit log."""
    return Actor(session.user_name, address(request))


def address(request: Request) -> str:
    """Where the request came from."""
    return request.client.host if request.client is not None else ""


async def by_cookie(request: Request, services: Services, needed: Role = Role.READONLY) -> Session:
    """The session of the browser's cookie. Raises `LoginNeeded`, or `ProblemError` 403 when the role is too small."""
    token = request.cookies.get(cookie_name(services.settings), "")
    session = None
    if token and len(token) < 200:
        async with services.database.read() as connection:
            session, stale = await sessions.find(connection, services.settings, token)
        if session is not None and stale:
            async with services.database.write() as connection:
                await sessions.touch(connection, session)
    if session is None:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        raise LoginNeeded(target if request.method == "GET" else "/")
    _require(session, needed)
    return session


async def by_token_or_cookie(request: Request, services: Services, needed: Role = Role.READONLY) -> Session:
    """For scripts: a bearer token, or the browser's cookie together with its CSRF token. Raises `ProblemError`."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        async with services.database.read() as connection:
            session = await sessions.find_token(connection, token.strip()[:200])
        if session is None:
            raise ProblemError(401, "The API token is not known, has expired, or its user is disabled.")
        _require(session, needed)
        return session
    try:
        session = await by_cookie(request, services, needed)
    except LoginNeeded as error:
        raise ProblemError(
            401, "Log in, or send an API token as 'Authorization: Bearer …'.", headers={"WWW-Authenticate": "Bearer"}
        ) from error
    if request.method not in ("GET", "HEAD"):
        require_same_origin(request, services.settings)
        _require_csrf(session, request.headers.get("x-csrf-token", ""))
    return session


def _require(session: Session, needed: Role) -> None:
    if not session.role.may(needed):
        raise ProblemError(403, f"This needs the role {needed}; {session.user_name} has the role {session.role}.")


def require_same_origin(request: Request, settings: Settings) -> None:
    """Raises `ProblemError` 403 unless the request comes from one of our own pages."""
    said = request.headers.get("origin") or request.headers.get("referer") or ""
    got = urllib.parse.urlsplit(said)
    if settings.public_url:
        wanted = urllib.parse.urlsplit(settings.public_url)
        same = (got.scheme, got.netloc) == (wanted.scheme, wanted.netloc)
    else:
        same = bool(got.netloc) and got.netloc == request.headers.get("host", "")
        same = same and got.scheme == ("https" if settings.secure else request.url.scheme)
    if not same:
        raise ProblemError(403, "The request does not come from this site's own pages. Reload the page and try again.")


def _require_csrf(session: Session, token: str) -> None:
    if not hmac.compare_digest(session.csrf_token.encode(), token.encode("utf-8", "replace")):
        raise ProblemError(403, "The page is too old, or the request is forged. Reload the page and try again.")


async def form(request: Request) -> dict[str, str]:
    """The fields of a submitted form. Raises `ProblemError` when it is not one."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise ProblemError(415, "A form is sent as application/x-www-form-urlencoded.")
    try:
        text = (await request.body()).decode("ascii")
        return dict(urllib.parse.parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise ProblemError(400, "The form cannot be read.") from error


async def submitted(request: Request, services: Services, needed: Role) -> tuple[Session, dict[str, str]]:
    """The session and fields of a form that was really sent by the person logged in. Raises `ProblemError`."""
    require_same_origin(request, services.settings)
    session = await by_cookie(request, services, needed)
    fields = await form(request)
    _require_csrf(session, fields.get("csrf", ""))
    return session, fields
