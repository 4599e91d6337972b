"""SSDP (UPnP Device Architecture 2.0, section 1): what a device announces of itself. Nothing is ever fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass

from network_scanner.packets import PacketError
from network_scanner.text import BANNER_LIMIT, clean

SEARCH = (
    b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n"
    b"ST: upnp:rootdevice\r\n\r\n"
)
"""The one question a scan asks of everybody at once; root devices answer within a second."""

_UUID = re.compile(r"uuid:([0-9A-Za-z._-]{4,64})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Announcement:
    """A NOTIFY or the answer to a search."""

    server: str
    kind: str
    uuid: str
    leaving: bool = False


def parse(raw: bytes) -> Announcement:
    """Read a NOTIFY or a search answer. Raises `PacketError` for a search, which says nothing of its sender."""
    head = raw[:4096].split(b"\r\n\r\n", 1)[0]
    first, *lines = head.split(b"\r\n")[:64]
    if not first.upper().startswith((b"NOTIFY *", b"HTTP/1.")):
        raise PacketError("neither an announcement nor an answer")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(clean(name, 40).upper(), clean(value, BANNER_LIMIT))
    kind = headers.get("NT") or headers.get("ST") or ""
    uuid = _UUID.search(headers.get("USN", ""))
    if not kind and not uuid:
        raise PacketError("an announcement of nothing")
    leaving = headers.get("NTS", "").lower() == "ssdp:byebye"
    return Announcement(headers.get("SERVER", ""), kind, uuid.group(1).lower() if uuid else "", leaving)
