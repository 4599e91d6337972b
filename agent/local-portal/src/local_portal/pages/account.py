"""Taking the appliance into use, logging in and out, changing the password."""

from __future__ import annotations

import asyncio
import math
import secrets

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_portal import passwords
from local_portal.moments import duration
from local_portal.portal import Portal
from local_portal.store import Account, normalise_code
from local_portal.web import (
    SESSION_COOKIE,
    VISIT_COOKIE,
    address_of,
    form_of,
    portal_of,
    problem,
    render,
    safe_next,
    see_other,
    session_of,
    set_cookie,
)


def _name_objection(name: str) -> str:
    if 2 <= len(name) <= 40 and name.isascii() and all(char.isalnum() or char in "._-" for char in name):
        return ""
    return "Use 2 to 40 letters, digits, dots, hyphens or underscores for the name."


def _wait(seconds: float) -> str:
    return f"Too many attempts. Please wait {duration(math.ceil(seconds))} and try again."


async def claim_form(request: Request) -> Response:
    """The page for the first visitor: it says nothing about the clinic."""
    if portal_of(request).store.claimed():
        return see_other("/login")
    return render(request, "claim.html", errors=[], name="")


async def claim(request: Request) -> Response:
    """Check the code from the console, make the first account, log in."""
    portal, address = portal_of(request), address_of(request)
    fields = await form_of(request)
    name = fields.get("name", "").strip().casefold()
    password = fields.get("password", "")
    if portal.store.claimed():
        return see_other("/login")
    left = portal.throttle.admit("claim", address)
    if left:
        return render(request, "claim.html", 429, errors=[_wait(left)], name=name)
    expected = portal.store.claim_code() or secrets.token_hex()
    if not secrets.compare_digest(normalise_code(fields.get("code", "")), normalise_code(expected)):
        portal.record("", address, "claim refused", "wrong code")
        return render(request, "claim.html", 403, name=name, errors=[
            "That is not the code on the appliance's console. Letters and digits matter, hyphens and case do not."])
    portal.throttle.succeeded("claim", address)
    errors = [_name_objection(name)] if _name_objection(name) else []
    errors += passwords.objections(password, name)
    if passwords.normalise(password) != passwords.normalise(fields.get("again", "")):
        errors.append("The two passwords differ.")
    if errors:
        return render(request, "claim.html", 422, errors=errors, name=name)
    password_hash = await asyncio.to_thread(passwords.hash_password, password)
    if not portal.store.claim(fields["code"], Account(name, password_hash, portal.clock.now())):
        return see_other("/login")
    portal.record(name, address, "claimed", "the appliance was taken into use")
    return _welcome(portal, request, name, "/")


def _welcome(portal: Portal, request: Request, name: str, target: str) -> Response:
    """A new session under a new cookie, whatever the browser sent before."""
    before = request.cookies.get(SESSION_COOKIE, "")
    if before:
        portal.sessions.end(before)
    response = see_other(target)
    set_cookie(response, SESSION_COOKIE, portal.sessions.create(name).token)
    response.delete_cookie(VISIT_COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return response


async def login_form(request: Request) -> Response:
    """The login page."""
    if not portal_of(request).store.claimed():
        return see_other("/claim")
    target = safe_next(request.query_params.get("next", "/"))
    if request.scope.get("portal_session"):
        return see_other(target)
    return render(request, "login.html", errors=[], name="", target=target)


async def login(request: Request) -> Response:
    """Check name and password; the answer never tells which of the two was wrong."""
    portal, address = portal_of(request), address_of(request)
    fields = await form_of(request)
    name, target = fields.get("name", "").strip().casefold()[:100], safe_next(fields.get("next", "/"))
    left = portal.throttle.admit("login", address, name)
    if left:
        return render(request, "login.html", 429, errors=[_wait(left)], name=name, target=target)
    account = portal.store.account(name)
    right = await asyncio.to_thread(
        passwords.verify, fields.get("password", ""), account.password_hash if account else None)
    if account is None or not right:
        portal.record(name, address, "login refused")
        return render(request, "login.html", 403, name=name, target=target, errors=["Name or password is wrong."])
    portal.throttle.succeeded("login", address, name)
    portal.record(account.name, address, "logged in")
    return _welcome(portal, request, account.name, target)


async def logout(request: Request) -> Response:
    """End this session, on the server too."""
    portal, session = portal_of(request), session_of(request)
    await form_of(request)
    portal.sessions.end(session.token)
    portal.record(session.account, address_of(request), "logged out")
    response = see_other("/login")
    response.delete_cookie(SESSION_COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return response


async def account_form(request: Request) -> Response:
    """The reader's own account."""
    return render(request, "account.html", errors=[])


async def change_password(request: Request) -> Response:
    """Replace the password and log out everywhere else."""
    portal, session, address = portal_of(request), session_of(request), address_of(request)
    fields = await form_of(request)
    left = portal.throttle.admit("login", address, session.account)
    if left:
        return render(request, "account.html", 429, errors=[_wait(left)])
    account = portal.store.account(session.account)
    if account is None:
        return problem(request, 404, "There is no such account", "It was removed meanwhile.")
    if not await asyncio.to_thread(passwords.verify, fields.get("current", ""), account.password_hash):
        portal.record(account.name, address, "password change refused", "wrong current password")
        return render(request, "account.html", 403, errors=["The current password is wrong."])
    portal.throttle.succeeded("login", address, session.account)
    password = fields.get("password", "")
    errors = passwords.objections(password, account.name)
    if passwords.normalise(password) != passwords.normalise(fields.get("again", "")):
        errors.append("The two passwords differ.")
    if errors:
        return render(request, "account.html", 422, errors=errors)
    portal.store.set_password(account.name, await asyncio.to_thread(passwords.hash_password, password))
    portal.sessions.end_all(account.name)
    portal.record(account.name, address, "password changed")
    return _welcome(portal, request, account.name, "/account?changed=1")


ROUTES = [
    Route("/claim", claim_form), Route("/claim", claim, methods=["POST"]),
    Route("/login", login_form), Route("/login", login, methods=["POST"]),
    Route("/logout", logout, methods=["POST"]),
    Route("/account", account_form), Route("/account", change_password, methods=["POST"]),
]
