"""WS-Discovery (OASIS 1.1 and the 2005 draft that devices speak): Hello, ProbeMatches, ResolveMatches.

Windows machines, printers and scanners announce themselves with it, and so do IEEE 11073 SDC medical devices.
"""

from __future__ import annotations

import uuid
import xml.parsers.expat
from dataclasses import dataclass

from network_scanner.packets import PacketError
from network_scanner.text import BANNER_LIMIT, clean

MAX_BYTES = 16384
MAX_ELEMENTS = 400
MAX_DEPTH = 24
_WANTED = frozenset({"Types", "Scopes", "Address"})
_ANSWERS = frozenset({"Hello", "Bye", "ProbeMatch", "ResolveMatch"})


@dataclass(frozen=True, slots=True)
class Match:
    """One device's announcement. `types` are local names without prefix, lower case."""

    types: tuple[str, ...]
    scopes: tuple[str, ...]
    uuid: str
    leaving: bool = False


class _Handler:
    """Collects the text of the few elements that matter; refuses document types, hence entities."""

    def __init__(self) -> None:
        self.parser = xml.parsers.expat.ParserCreate()
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.text
        self.parser.StartDoctypeDeclHandler = self.doctype
        self.path: list[str] = []
        self.elements = 0
        self.kinds: set[str] = set()
        self.found: dict[str, str] = {}

    def doctype(self, *_: object) -> None:
        raise PacketError("WS-Discovery with a document type")

    def start(self, name: str, _: object) -> None:
        local = name.rpartition(":")[2]
        self.path.append(local)
        self.elements += 1
        if self.elements > MAX_ELEMENTS or len(self.path) > MAX_DEPTH:
            raise PacketError("WS-Discovery with too many elements")
        if local in _ANSWERS:
            self.kinds.add(local)

    def end(self, _: str) -> None:
        self.path.pop()

    def text(self, data: str) -> None:
        if not self.path or self.path[-1] not in _WANTED or not self.kinds:
            return
        # Only the device's own endpoint, not the message's From or ReplyTo.
        if self.path[-1] == "Address" and "EndpointReference" not in self.path:
            return
        so_far = self.found.get(self.path[-1], "")
        if len(so_far) < 2048:
            self.found[self.path[-1]] = so_far + data


def parse(raw: bytes) -> Match:
    """Read an announcement or an answer. Raises `PacketError` for probes and for what is not WS-Discovery."""
    if len(raw) > MAX_BYTES:
        raise PacketError(f"WS-Discovery of {len(raw)} bytes")
    handler = _Handler()
    try:
        handler.parser.Parse(raw, True)
    except (xml.parsers.expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, PacketError):
            raise
        raise PacketError("WS-Discovery that is not XML") from error
    if not handler.kinds:
        raise PacketError("no announcement in it")
    types = tuple(clean(word.rpartition(":")[2], 64).lower() for word in handler.found.get("Types", "").split()[:16])
    scopes = tuple(clean(word, BANNER_LIMIT) for word in handler.found.get("Scopes", "").split()[:16])
    address = clean(handler.found.get("Address", ""), 120).lower()
    identity = address.rpartition("uuid:")[2] if "uuid:" in address else ""
    return Match(tuple(filter(None, types)), tuple(filter(None, scopes)), identity[:64], "Bye" in handler.kinds)


def probe() -> bytes:
    """A Probe for every type of device, with a fresh message id."""
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        '<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"'
        ' xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"'
        ' xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery"><s:Header>'
        "<a:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe</a:Action>"
        f"<a:MessageID>urn:uuid:{uuid.uuid4()}</a:MessageID>"
        "<a:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</a:To>"
        "</s:Header><s:Body><d:Probe/></s:Body></s:Envelope>"
    ).encode()
