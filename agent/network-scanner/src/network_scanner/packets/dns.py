"""DNS messages (RFC 1035) as mDNS, LLMNR and reverse look-ups use them, and NetBIOS names, which share the format.

An own reader of some hundred lines, because zeroconf's costs 4 MiB of memory at rest, logs what it cannot read, and
knows neither LLMNR nor NetBIOS. A test reads the same packets with both.
"""

from __future__ import annotations

import contextlib
import ipaddress
import struct
from dataclasses import dataclass

from network_scanner.packets import PacketError
from network_scanner.text import clean

A, PTR, TXT, AAAA, SRV, NB, NBSTAT = 1, 12, 16, 28, 33, 32, 33
IN = 1

MAX_RECORDS = 256
"""Records read of one message; a device announces a few dozen at most."""
MAX_NAME = 255
MAX_LABELS = 128
MAX_POINTERS = 512
"""Compression pointers followed in one message altogether: bounds the work that a hostile one can cause."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question; `name` is cleaned, without the final dot."""

    name: str
    kind: int


@dataclass(frozen=True, slots=True)
class Record:
    """A resource record. `target` holds PTR and SRV names and A and AAAA addresses, `texts` the strings of a TXT."""

    name: str
    kind: int
    target: str = ""
    texts: tuple[str, ...] = ()
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Message:
    """A DNS message."""

    id: int
    response: bool
    questions: tuple[Question, ...]
    records: tuple[Record, ...]


class _Reader:
    """A position in a message, and the work done so far."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at, self.pointers = raw, 0, 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.raw):
            raise PacketError(f"DNS message ends at byte {len(self.raw)}, {self.at + count} were promised")
        self.at += count
        return self.raw[self.at - count : self.at]

    def number(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def name(self) -> str:
        labels: list[str] = []
        size, at, jumped = 0, self.at, False
        while True:
            if at >= len(self.raw):
                raise PacketError("a DNS name runs past the end")
            length = self.raw[at]
            if length & 0xC0 == 0xC0:
                at, jumped = self._follow(at, jumped), True
                continue
            if length & 0xC0 or at + 1 + length > len(self.raw):
                raise PacketError("a DNS label of impossible length")
            at += 1 + length
            if not length:
                break
            size += length + 1
            if size > MAX_NAME or len(labels) >= MAX_LABELS:
                raise PacketError("a DNS name longer than 255 bytes")
            labels.append(clean(self.raw[at - length : at], 63).replace(".", "\u2024"))
        if not jumped:
            self.at = at
        return ".".join(labels)

    def _follow(self, at: int, jumped: bool) -> int:
        if at + 2 > len(self.raw):
            raise PacketError("a DNS pointer runs past the end")
        target = int.from_bytes(self.raw[at : at + 2], "big") & 0x3FFF
        self.pointers += 1
        # RFC 1035, 4.1.4: a *prior* occurrence. Only ever going backwards, no loop is possible.
        if target >= at or self.pointers > MAX_POINTERS:
            raise PacketError("a DNS pointer that does not point backwards, or too many of them")
        if not jumped:
            self.at = at + 2
        return target


def parse(raw: bytes) -> Message:
    """Read a message; records after the first unreadable one are lost, those before it are kept.

    Raises `PacketError` when header or questions cannot be read.
    """
    reader = _Reader(raw)
    identity, flags, questions, *counts = struct.unpack("!6H", reader.take(12))
    if questions > MAX_RECORDS:
        raise PacketError(f"{questions} DNS questions")
    asked = []
    for _ in range(questions):
        name = reader.name()
        asked.append(Question(name, reader.number()))
        reader.number()
    records: list[Record] = []
    for _ in range(min(sum(counts), MAX_RECORDS)):
        try:
            records.append(_record(reader))
        except PacketError:
            break
    return Message(identity, bool(flags & 0x8000), tuple(asked), tuple(records))


def _record(reader: _Reader) -> Record:
    name, kind = reader.name(), reader.number()
    reader.take(6)
    length = reader.number()
    start = reader.at
    data = reader.take(length)
    end = reader.at
    target = ""
    texts: tuple[str, ...] = ()
    if kind == PTR or (kind == SRV and length >= 7):
        reader.at = start if kind == PTR else start + 6
        # The number of SRV is that of NetBIOS node status as well, whose data holds no name.
        with contextlib.suppress(PacketError):
            target = reader.name()
    elif kind == A and length == 4:
        target = str(ipaddress.IPv4Address(data))
    elif kind == AAAA and length == 16:
        target = str(ipaddress.IPv6Address(data))
    elif kind == TXT:
        texts = _strings(data)
    reader.at = end
    return Record(name, kind, target, texts, data)


def _strings(data: bytes) -> tuple[str, ...]:
    found: list[str] = []
    at = 0
    while at < len(data) and len(found) < 64:
        length = data[at]
        found.append(clean(data[at + 1 : at + 1 + length], 255))
        at += 1 + length
    return tuple(text for text in found if text)


def encode_name(name: str) -> bytes:
    """A name in wire form. Raises `ValueError` when a label is empty or longer than 63 bytes."""
    wire = b""
    for label in filter(None, name.split(".")):
        raw = label.encode()
        if len(raw) > 63:
            raise ValueError(f"label of {len(raw)} bytes")
        wire += bytes([len(raw)]) + raw
    return wire + b"\0"


def query(questions: list[tuple[str, int]], *, identity: int = 0, recursion: bool = False) -> bytes:
    """A query for (name, type) pairs in class IN."""
    flags = 0x0100 if recursion else 0
    body = b"".join(encode_name(name) + struct.pack("!HH", kind, IN) for name, kind in questions)
    return struct.pack("!6H", identity, flags, len(questions), 0, 0, 0) + body


def reverse_name(ip: str) -> str:
    """The name whose PTR record names an address."""
    return ipaddress.ip_address(ip).reverse_pointer
