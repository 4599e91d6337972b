"""The head of an HTTP answer: the server's name and the page's title, as evidence of what a device is."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from network_scanner.packets import PacketError
from network_scanner.text import BANNER_LIMIT, clean

MAX_BYTES = 4096
"""Bytes of an answer that are read at most: headers and title, and no more packets than that takes."""
_TITLE = re.compile(rb"<title[^>]{0,200}>([^<]{0,1000})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status, server and title of an answer; texts are empty when the answer lacks them."""

    status: int
    server: str
    title: str
    realm: str


def request(host: str) -> bytes:
    """The one request made: the start page, HTTP/1.0, and no more of it than fits into a few packets."""
    lines = (
        "GET / HTTP/1.0", f"Host: {host}", "User-Agent: network-scanner (inventory)", "Accept: text/html",
        "Range: bytes=0-4095", "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def parse(raw: bytes) -> HttpAnswer:
    """Read what came back, however little of it. Raises `PacketError` when it does not start like HTTP."""
    raw = raw[:MAX_BYTES]
    status = re.match(rb"HTTP/\d(?:\.\d)? +(\d{3})\b", raw)
    if status is None:
        raise PacketError("the answer is not HTTP")
    head, _, body = raw.partition(b"\r\n\r\n")
    headers: dict[str, str] = {}
    for line in head.split(b"\r\n")[1:100]:
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(clean(name, 40).lower(), clean(value, BANNER_LIMIT))
    title = _TITLE.search(body)
    realm = re.search(r'realm="([^"]*)"', headers.get("www-authenticate", ""))
    return HttpAnswer(
        status=int(status.group(1)),
        server=headers.get("server", ""),
        title=clean(html.unescape(title.group(1).decode("utf-8", "replace"))) if title else "",
        realm=clean(realm.group(1)) if realm else "",
    )
