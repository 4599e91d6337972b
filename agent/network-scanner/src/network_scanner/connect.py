"""One TCP connection at a time and host: open it, perhaps read or say a word, close it cleanly, count every packet.

The kernel tells how many segments a connection really sent (TCP_INFO), which is what the pacer is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import socket
import struct
from dataclasses import dataclass

from network_scanner.link import Link, bind_socket
from network_scanner.pacer import Lease, Pacer

CONNECT_TIMEOUT = 0.9
"""Seconds; below the kernel's first retransmission (1 s), so that a silent port costs one packet and no second SYN."""
CLOSE_TIMEOUT = 0.5
"""Seconds; a program that is alive closes as soon as it reads our FIN, one that hangs would not in any time."""
RECEIVE_BUFFER = 4096
"""Bytes; a small window keeps a talkative service from making us acknowledge a flood."""
OPEN_COST = 2
"""SYN and ACK."""
CLOSE_COST = 3
"""FIN, the ACK of the other side's, and one for what comes in between."""
LISTEN_COST = 3
"""The acknowledgements of as much as our window lets in before we read it."""
EXCHANGE_COST = 1 + LISTEN_COST
"""One segment out, and listening."""
NEIGHBOUR_COST = 1
"""The kernel's ARP request before the first connection to a host."""

_SEGMENTS_OUT = 136
_TCP_INFO_SIZE = 144
TCP_USER_TIMEOUT = 18


class PortState(enum.StrEnum):
    """What a port did."""

    OPEN = "open"
    CLOSED = "closed"
    SILENT = "silent"
    UNREACHABLE = "unreachable"


@dataclass
class Connection:
    """An open connection. Use it, then `close` it: only that ends it cleanly and tells the pacer."""

    sock: socket.socket
    host: str
    pacer: Pacer
    lease: Lease
    """What may still be sent: when it is open, the next step needs no other."""
    counted: int = 0

    async def exchange(self, payload: bytes, limit: int, wait: float) -> bytes:
        """Send `payload` and read the answer until the other side closes, `limit` bytes or `wait` seconds a step."""
        data = chunk = await self.step(payload, wait)
        while chunk and len(data) < limit:
            chunk = await self.step(b"", wait)
            data += chunk
        return data

    async def step(self, payload: bytes, wait: float) -> bytes:
        """Send `payload`, if any, and read once; empty when the other side is done or says nothing in `wait` seconds.

        The receive window bounds what can arrive, and be acknowledged, between two readings: one lease covers it.
        """
        if not self.lease.open:
            self.lease = await self.pacer.lease(self.host, EXCHANGE_COST if payload else LISTEN_COST)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(wait):
                if payload:
                    await loop.sock_sendall(self.sock, payload)
                    # While we wait, only what an answer would cost is held back from the visits to others.
                    self.lease.sent(self.segments())
                return await loop.sock_recv(self.sock, RECEIVE_BUFFER)
        except (TimeoutError, OSError):
            return b""
        finally:
            self.lease.settle(self.segments())

    def segments(self) -> int:
        """Segments sent since this was last asked."""
        total = segments_sent(self.sock)
        new, self.counted = max(total - self.counted, 0), max(total, self.counted)
        return new

    async def close(self) -> None:
        """Say that we are done, wait for the other side to say so too, and only then let go."""
        self.lease.settle(self.segments())
        lease = await self.pacer.lease(self.host, CLOSE_COST)
        try:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
            lease.sent(self.segments())
            finished = await self._drain()
            if finished is None:
                # It goes on talking: only a reset stops that, and what it makes us acknowledge.
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Without the other side's FIN the kernel will acknowledge it after us: count that one now.
            lease.settle(self.segments() + (0 if finished else 1))
        finally:
            lease.settle(lease.count)
            self.sock.close()

    async def _drain(self) -> bool | None:
        """Whether the other side has closed too; None when it is still sending."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                for _ in range(2):
                    if not await loop.sock_recv(self.sock, RECEIVE_BUFFER):
                        return True
            return None
        except (TimeoutError, OSError):
            return False


async def connect(
    link: Link, pacer: Pacer, ip: str, port: int, *, host: str, first: bool = False, room: int = 0
) -> tuple[PortState, Connection | None]:
    """Connect to a port; `host` is whom the pacer counts it for, `first` whether it is the first connection of a scan.

    `room` is what the first step will cost. It is leased along, because a host that speaks first does not wait for a
    second lease. Raises `OSError` when this machine itself cannot (no route, no ports left).
    """
    extra = NEIGHBOUR_COST if first else 0
    if OPEN_COST + extra + room > pacer.host_capacity:
        room = 0
    lease = await pacer.lease(host, OPEN_COST + extra + room)
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 1500)
        bind_socket(sock, link)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await asyncio.get_running_loop().sock_connect(sock, (ip, port))
    except BaseException as error:
        used = segments_sent(sock)
        sock.close()
        lease.settle(used + extra)
        state = _failure(error)
        if state is None:
            raise
        return state, None
    connection = Connection(sock, host, pacer, lease)
    if room:
        lease.sent(connection.segments() + extra)
    else:
        lease.settle(connection.segments() + extra)
    return PortState.OPEN, connection


def _failure(error: BaseException) -> PortState | None:
    if isinstance(error, ConnectionRefusedError):
        return PortState.CLOSED
    if isinstance(error, TimeoutError):
        return PortState.SILENT
    if isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ECONNRESET, errno.ECONNABORTED):
        return PortState.UNREACHABLE
    return None


def segments_sent(sock: socket.socket) -> int:
    """TCP segments this socket has sent so far (tcpi_segs_out, RFC 4898 tcpEStatsPerfSegsOut); 0 when unknown."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        return int(struct.unpack_from("=I", info, _SEGMENTS_OUT)[0])
    except (OSError, struct.error):
        return 0
