"""HTTP as clinics have it: links that flap, proxies, captive portals, servers that forget how to resume."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from appliance_update.pace import Bucket

CONNECT_TIMEOUT = 15.0
READ_TIMEOUT = 60.0
CHUNK = 32 * 1024
"""Bytes read at once; what a breaking link delivered of the last one is lost, so it is small."""
HTML = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<script", b"<meta")
PACKED = ("gzip", "x-gzip", "deflate")
"""Content encodings that some proxies apply although nobody asked for one."""


class WebError(RuntimeError):
    """The server could not be reached or answered something else; the message names URL and reason.

    `status` is the HTTP status when somebody answered, else 0.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NotThere(WebError):
    """The server says it has no such file (`status` 403 or 404)."""


class CaptivePortal(WebError):
    """Somebody between us and the server answers with a web page."""


def looks_like_page(start: bytes, content_type: str) -> bool:
    """Whether a body that should be metadata or an image begins like a web page, or calls itself one."""
    return content_type.partition(";")[0].strip().lower() == "text/html" or start.lstrip()[:16].lower().startswith(HTML)


class Client(requests.Session):
    """A session that asks its own proxy before those of the environment, and none for this machine itself.

    `bucket` caps what `body` reads; `received` counts it (bytes).
    """

    def __init__(self, user_agent: str, proxy: str = "", bucket: Bucket | None = None) -> None:
        super().__init__()
        self.headers["User-Agent"] = user_agent
        self.headers["Accept-Encoding"] = "identity"  # lengths and hashes are those of the bytes as served
        self.proxy = proxy
        self.bucket = bucket or Bucket()
        self.received = 0

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """As in requests, but there the environment would win over the session's own proxy."""
        merged = super().merge_environment_settings(url, proxies, stream, verify, cert)
        if _is_here(str(url)):
            merged["proxies"] = {}
        elif self.proxy:
            merged["proxies"] = {"http": self.proxy, "https": self.proxy}
        return merged


def session(user_agent: str, proxy: str = "", bytes_per_second: float = 0.0) -> Client:
    """A client for one run; an empty `proxy` leaves it to the environment's variables, a rate of 0 is no cap."""
    return Client(user_agent, proxy, Bucket(bytes_per_second))


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise WebError(f"{url}: {_reason(error)}") from error


def packed(response: requests.Response, length: int | None = None) -> bool:
    """Whether the body is compressed on its way, so that its bytes are not those of the file.

    A body that has the file's `length` is the file, whatever its header says: some servers call every .zst encoded.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return encoding in PACKED and response.headers.get("Content-Length") != str(length)


def body(client: requests.Session, response: requests.Response, length: int | None = None) -> Iterator[bytes]:
    """The file's bytes, unpacked where somebody packed them, at the client's pace. Use within `opened`.

    Raises `CaptivePortal` when they begin like a web page, and what `opened` turns into `WebError`.
    """
    if packed(response, length):
        pieces: Iterator[bytes] = response.iter_content(CHUNK)
    else:
        pieces = response.raw.stream(CHUNK, decode_content=False)
    first = response.status_code != 206
    for piece in pieces:
        if first and looks_like_page(piece, ""):
            raise _portal(response.url)
        first = False
        if isinstance(client, Client):
            client.received += len(piece)
            client.bucket.take(len(piece))
        yield piece


def _judge(response: requests.Response, url: str, offset: int) -> None:
    status = response.status_code
    if response.is_redirect or status == 511:
        target = response.headers.get("Location", "")[:200]
        raise CaptivePortal(
            f"{url} was redirected to {target or 'a login page'}: "
            "a captive portal or proxy stands in between; let the update server through",
            status,
        )
    if status == 407:
        raise WebError(f"{url}: the proxy demands a login; put it into its URL, http://user:password@proxy:port", 407)
    if status in (403, 404):
        raise NotThere(f"{url}: the server answered {status}", status)
    if status == 416 and offset:
        return
    if status not in ((200, 206) if offset else (200,)):
        raise WebError(f"{url}: the server answered {status} {response.reason}", status)
    if looks_like_page(b"", response.headers.get("Content-Type", "")):
        raise _portal(url)


def _portal(url: str) -> CaptivePortal:
    return CaptivePortal(
        f"{url}: a web page came back instead of the file: "
        "a captive portal or proxy stands in between; let the update server through"
    )


def _reason(error: requests.RequestException | urllib3.exceptions.HTTPError) -> str:
    text = str(error)
    unresolved = "resol" in text.lower() or "Name or service" in text
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy's name cannot be resolved (is DNS up?)" if unresolved else "the proxy does not answer"
    if isinstance(error, requests.exceptions.InvalidURL) and "proxy" in text.lower():
        return f"the proxy's URL is not one ({text}); it is http://[user:password@]host:port"
    if isinstance(error, requests.exceptions.SSLError | urllib3.exceptions.SSLError):
        return f"the TLS certificate was refused ({error})"
    if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError | urllib3.exceptions.ProtocolError):
        return "the connection broke"
    if isinstance(error, requests.exceptions.ContentDecodingError | urllib3.exceptions.DecodeError):
        return "somebody in between packed the file, and damaged it"
    if isinstance(error, requests.exceptions.ConnectionError):
        if unresolved:
            return "its name cannot be resolved (is DNS up?)"
        return "no connection (is the uplink up?)"
    return f"{type(error).__name__}: {error}"[:300]
