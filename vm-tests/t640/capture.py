"""Packets on the appliance's cable: recorded by tcpdump, read here to prove pacing and silence."""

from __future__ import annotations

import signal
import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from t640.processes import wait_for
from t640.session import Session


@dataclass(frozen=True)
class Packet:
    """One packet. `payload` is what TCP or UDP carries; ARP has protocol `arp` and its target as destination."""

    time: float
    source_mac: str
    destination_mac: str
    protocol: str
    source: str = ""
    destination: str = ""
    source_port: int = 0
    destination_port: int = 0
    flags: int = 0
    payload: bytes = b""


class Capture:
    """A running tcpdump. `stop` ends it and returns what it saw."""

    def __init__(self, session: Session, namespace: str, interface: str, path: Path) -> None:
        self.path = path
        argv = ["tcpdump", "-i", interface, "-U", "-n", "-s", "512", "-w", str(path), "-Z", "root", "ip or arp"]
        self._process = session.start(path.stem, argv, namespace=namespace)
        wait_for(lambda: "listening" in self._process.tail(), timeout=20, what="The start of tcpdump")

    def stop(self) -> list[Packet]:
        """End the recording and return its packets."""
        self._process.signal(signal.SIGINT)
        self._process.wait(20)
        return list(read(self.path))


def read(path: Path) -> Iterator[Packet]:
    """The packets of a pcap file with Ethernet frames, oldest first; a cut-off last record is left out."""
    data = path.read_bytes()
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    fraction = 1e-9 if data[:4] in (b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d") else 1e-6
    at = 24
    while at + 16 <= len(data):
        seconds, part, length, _ = struct.unpack_from(f"{order}IIII", data, at)
        frame = data[at + 16 : at + 16 + length]
        at += 16 + length
        if len(frame) == length and length >= 14:
            yield _ethernet(seconds + part * fraction, frame)


def _mac(raw: bytes) -> str:
    return raw.hex(":")


def _ethernet(time: float, frame: bytes) -> Packet:
    destination, source, kind = _mac(frame[:6]), _mac(frame[6:12]), frame[12:14]
    if kind == b"\x08\x06" and len(frame) >= 42:
        return Packet(time, source, destination, "arp", socket.inet_ntoa(frame[28:32]), socket.inet_ntoa(frame[38:42]))
    if kind == b"\x08\x00" and len(frame) >= 34:
        return _ip(time, source, destination, frame[14:])
    return Packet(time, source, destination, "other")


def _ip(time: float, source_mac: str, destination_mac: str, packet: bytes) -> Packet:
    header, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    ends = (socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]))
    body = packet[header:total]
    if packet[9] == 6 and len(body) >= 20:
        source_port, port = struct.unpack_from("!HH", body)
        payload = body[(body[12] >> 4) * 4 :]
        return Packet(time, source_mac, destination_mac, "tcp", *ends, source_port, port, body[13], payload)
    if packet[9] == 17 and len(body) >= 8:
        source_port, port = struct.unpack_from("!HH", body)
        return Packet(time, source_mac, destination_mac, "udp", *ends, source_port, port, 0, body[8:])
    return Packet(time, source_mac, destination_mac, f"ip-{packet[9]}", *ends)


def peak_rate(packets: Iterable[Packet], window: float = 1.0) -> int:
    """The most packets in any window of that many seconds (sliding, not clock seconds)."""
    times = sorted(packet.time for packet in packets)
    peak = first = 0
    for last, time in enumerate(times):
        while time - times[first] >= window:
            first += 1
        peak = max(peak, last - first + 1)
    return peak


def peak_rate_by_host(packets: Iterable[Packet], window: float = 1.0) -> dict[str, int]:
    """The same for each destination address."""
    by_host: dict[str, list[Packet]] = defaultdict(list)
    for packet in packets:
        by_host[packet.destination].append(packet)
    return {address: peak_rate(list_, window) for address, list_ in by_host.items()}


def payload_bytes(packets: Iterable[Packet], destination: str) -> dict[tuple[str, int], int]:
    """How many payload bytes went to an address, by protocol and port."""
    sums: Counter[tuple[str, int]] = Counter()
    for packet in packets:
        if packet.destination == destination and packet.payload:
            sums[packet.protocol, packet.destination_port] += len(packet.payload)
    return dict(sums)
