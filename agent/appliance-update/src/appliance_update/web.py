"""HTTP as clinics have it: links that flap, proxies, captive portals, servers that forget how to resume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests

CONNECT_TIMEOUT = 15.0
READ_TIMEOUT = 60.0
CHUNK = 32 * 1024
"""Bytes read at once; what a breaking link delivered of the last one is lost, so it is small."""
HTML = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<script", b"<meta")


class WebError(RuntimeError):
    """The server could not be reached or answered something else; the message names URL and reason."""


class NotThere(WebError):
    """The server says it has no such file (`status` 403 or 404)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class CaptivePortal(WebError):
    """Somebody between us and the server answers with a web page."""


def looks_like_page(start: bytes, content_type: str) -> bool:
    """Whether a body that should be metadata or an image begins like a web page, or calls itself one."""
    return content_type.partition(";")[0].strip().lower() == "text/html" or start.lstrip()[:16].lower().startswith(HTML)


def session(user_agent: str) -> requests.Session:
    """A session that honours the proxy variables of the environment and follows no redirect to elsewhere."""
    made = requests.Session()
    made.headers["User-Agent"] = user_agent
    made.headers["Accept-Encoding"] = "identity"  # lengths and hashes are those of the bytes as served
    return made


@contextmanager
def opened(client: requests.Session, url: str, offset: int = 0) -> Iterator[requests.Response]:
    """GET `url` from byte `offset` on. Raises `WebError` for whatever goes wrong, also while the body is read."""
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    try:
        with client.get(
            url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), allow_redirects=False
        ) as response:
            _judge(response, url, offset)
            yield response
    except requests.RequestException as error:
        raise WebError(f"{url}: {_reason(error)}") from error


def _judge(response: requests.Response, url: str, offset: int) -> None:
    if response.is_redirect or response.status_code == 511:
        target = response.headers.get("Location", "")[:200]
        raise CaptivePortal(
            f"{url} was redirected to {target or 'a login page'}: "
            "a captive portal or proxy stands in between; let the update server through"
        )
    if response.status_code in (403, 404):
        raise NotThere(f"{url}: the server answered {response.status_code}", response.status_code)
    if response.status_code == 416 and offset:
        return
    if response.status_code not in ((200, 206) if offset else (200,)):
        raise WebError(f"{url}: the server answered {response.status_code} {response.reason}")
    if looks_like_page(b"", response.headers.get("Content-Type", "")):
        raise CaptivePortal(
            f"{url}: a web page came back instead of the file: "
            "a captive portal or proxy stands in between; let the update server through"
        )


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not answer"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the TLS certificate was refused ({error})"
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    if isinstance(error, requests.exceptions.ConnectionError):
        text = str(error)
        if "resol" in text.lower() or "Name or service" in text:
            return "its name cannot be resolved (is DNS up?)"
        return "no connection (is the uplink up?)"
    return f"{type(error).__name__}: {error}"[:300]
