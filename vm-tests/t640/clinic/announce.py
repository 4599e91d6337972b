"""How devices make themselves known: mDNS, SSDP and NetBIOS names."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from zeroconf import ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

_running: list[object] = []
"""Keeps responders alive as long as the process."""

_SSDP = ("239.255.255.250", 1900)
_SSDP_EVERY_S = 30.0


async def mdns(name: str, address: str, services: dict[str, int], text: dict[str, str]) -> None:
    """Answer mDNS for a host name and announce services (type → port)."""
    responder = AsyncZeroconf(interfaces=[address])
    for kind, port in services.items():
        record = ServiceInfo(
            f"{kind}.local.",
            f"{name}.{kind}.local.",
            port,
            addresses=[socket.inet_aton(address)],
            properties=dict(text),
            server=f"{name}.local.",
        )
        await responder.async_register_service(record, allow_name_change=True)
    _running.append(responder)


class _Ssdp(asyncio.DatagramProtocol):
    def __init__(self, address: str, kind: str, server: str) -> None:
        self._location = f"http://{address}:80/description.xml"
        self._kind, self._server = kind, server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        if data.startswith(b"M-SEARCH") and (b"ssdp:all" in data or self._kind.encode() in data):
            self._transport.sendto(self._message("HTTP/1.1 200 OK", "ST"), address)

    def announce(self) -> None:
        self._transport.sendto(self._message("NOTIFY * HTTP/1.1", "NT"), _SSDP)

    def _message(self, first: str, target: str) -> bytes:
        lines = [
            first,
            "HOST: 239.255.255.250:1900",
            "CACHE-CONTROL: max-age=1800",
            f"LOCATION: {self._location}",
            f"SERVER: Linux/3.10 UPnP/1.0 {self._server}",
            f"{target}: {self._kind}",
            f"USN: uuid:e3248000-80ce-11db-8000-008077100015::{self._kind}",
            "NTS: ssdp:alive",
            "EXT:",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def ssdp(address: str, kind: str, server: str) -> None:
    """Answer M-SEARCH and say NOTIFY every half minute."""
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    plain.bind(("", 1900))
    member = socket.inet_aton(_SSDP[0]) + socket.inet_aton(address)
    plain.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    plain.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    _, responder = await loop.create_datagram_endpoint(lambda: _Ssdp(address, kind, server), sock=plain)

    async def repeat() -> None:
        while True:
            with contextlib.suppress(OSError):
                responder.announce()
            await asyncio.sleep(_SSDP_EVERY_S)

    _running.append(asyncio.create_task(repeat()))


class _NetBios(asyncio.DatagramProtocol):
    """Answers node status requests (RFC 1002, 4.2.17 and 4.2.18)."""

    def __init__(self, name: str) -> None:
        self._name = name.upper()[:15]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        if len(data) < 50 or data[46:48] != b"\x00\x21":
            return
        table = ((self._name, 0x00, 0x0400), ("CLINIC", 0x00, 0x8400), (self._name, 0x20, 0x0400))
        rows = [label.encode().ljust(15) + struct.pack("!BH", suffix, flags) for label, suffix, flags in table]
        body = bytes([len(rows)]) + b"".join(rows) + b"\0" * 46
        header = data[:2] + struct.pack("!HHHHH", 0x8400, 0, 1, 0, 0)
        record = data[12:46] + struct.pack("!HHIH", 0x21, 1, 0, len(body))
        self._transport.sendto(header + record + body, address)


async def netbios(name: str) -> None:
    """Answer for a NetBIOS name on UDP 137."""
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: _NetBios(name), ("0.0.0.0", 137))
