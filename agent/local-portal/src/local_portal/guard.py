"""What every request passes before any page sees it, and every answer before it leaves.

Host allow-list (DNS rebinding), same-origin check for everything that changes something (CSRF), and the headers that
tell a browser to run and load nothing that does not come from here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_portal.names import Names

SAFE_METHODS = frozenset({"GET", "HEAD"})
MAX_HEAD = 16 * 1024
"""Bytes of all header fields together."""
_FOREVER = "public, max-age=31536000, immutable"
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
                               "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": browsers would then send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # No Strict-Transport-Security: with it a clinic that has not yet trusted the CA could never open the page.
}


class Guard:
    """Wraps the whole application, its error pages included."""

    def __init__(self, app: ASGIApp, names: Callable[[], Names]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, _with_headers(scope, send))

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD:
            return PlainTextResponse("The request's header fields are too large.\n", 431)
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._own_host(hosts[0], scope):
            return PlainTextResponse(
                "This appliance does not answer under that name. Open it by its address or as appliance.local.\n", 421)
        if scope["method"] in SAFE_METHODS:
            return None
        if scope["method"] != "POST":
            return PlainTextResponse("Only GET and POST are understood here.\n", 405, {"Allow": "GET, HEAD, POST"})
        if not same_origin(headers, hosts[0]):
            return PlainTextResponse(
                "This request did not come from the appliance's own pages and was not carried out.\n", 403)
        return None

    def _own_host(self, host: str, scope: Scope) -> bool:
        name = host_name(host)
        names = self._names()
        if name in names.dns:
            return True
        try:
            address = str(ipaddress.ip_address(name))
        except ValueError:
            return False
        server = scope.get("server") or ("", 0)
        return address in names.addresses or address == str(server[0]).removeprefix("::ffff:")


def host_name(host: str) -> str:
    """The name or address in a Host header, without port, brackets and final dot; empty when it is malformed."""
    text = host.strip().lower()
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        well_formed = bool(bracket) and (not port or (port[0] == ":" and port[1:].isascii() and port[1:].isdigit()))
        return name if well_formed else ""
    name, colon, port = text.partition(":")
    if colon and not (port.isascii() and port.isdigit()):
        return ""
    return name.rstrip(".")


def same_origin(headers: Headers, host: str) -> bool:
    """Whether a browser vouches that our own page sent this: Origin and Sec-Fetch-Site, at least one, none against it.

    The form token is checked besides; this check comes first and needs no cookie.
    """
    origins, sites = headers.getlist("origin"), headers.getlist("sec-fetch-site")
    if not origins and not sites:
        return False
    if any(origin.lower() != f"https://{host.lower()}" for origin in origins):
        return False
    return all(site in ("same-origin", "none") for site in sites)


def _with_headers(scope: Scope, send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            lasting = scope["path"].startswith("/static/") and b"v=" in scope["query_string"]
            headers["Cache-Control"] = _FOREVER if lasting and message["status"] == 200 else "no-store"
        await send(message)

    return sending
