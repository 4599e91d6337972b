"""Passive listening: one socket behind the kernel filter, from which observations come out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable

from network_scanner import bpf
from network_scanner.addresses import format_mac
from network_scanner.facts import Observation
from network_scanner.interpret import interpret
from network_scanner.link import Link, LinkError, no_permission

ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
FRAMES_PER_WAKE = 64
FRAMES_PER_SECOND = 2000
"""Frames read in a second at most. A flood beyond that is dropped by the kernel, and costs no more than this."""
GROUPS4 = ("224.0.0.251", "239.255.255.250", "224.0.0.252")
GROUPS6 = ("ff02::fb", "ff02::c", "ff02::1:3")
IPV6_ADD_MEMBERSHIP = 20

Handler = Callable[[Observation], None]
Asked = Callable[[str], None]


class Listener:
    """Reads frames as they come and hands every observation to each handler. Close it when done."""

    def __init__(self, link: Link) -> None:
        """Open the socket and join the multicast groups devices introduce themselves to. Raises `LinkError`."""
        self.handlers: list[Handler] = []
        self.asked: list[Asked] = []
        """Called with the MAC address of whoever asks for ours: the kernel answers, and that is a packet of ours."""
        self._target = socket.inet_aton(link.ip)
        self.frames = self.dropped = 0
        self.error = ""
        self.joins = 0
        """Groups joined; each makes the kernel send its membership report twice."""
        self._own = link.mac
        self._members: list[socket.socket] = []
        self._second, self._in_second = 0, 0
        try:
            # Protocol 0 until the filter is in place: not one unfiltered frame may be queued.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            bpf.attach(self._socket)
            with contextlib.suppress(OSError):
                self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 512 * 1024)
            self._socket.bind((link.name, ETH_P_ALL))
        except PermissionError as error:
            raise no_permission() from error
        except OSError as error:
            raise LinkError(f"interface {link.name}: cannot listen: {error.strerror}") from error
        self._join(link)
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _join(self, link: Link) -> None:
        """Become a member of the groups, so that switches which snoop on IGMP and MLD send them our way."""
        index = link.index
        v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._members.append(v4)
        for group in GROUPS4:
            request = socket.inet_aton(group) + socket.inet_aton(link.ip) + struct.pack("=i", index)
            with contextlib.suppress(OSError):
                v4.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
                self.joins += 1
        if link.ipv6:
            v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            self._members.append(v6)
            for group in GROUPS6:
                with contextlib.suppress(OSError):
                    request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=i", index)
                    v6.setsockopt(socket.IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, request)
                    self.joins += 1

    def _read(self) -> None:
        for _ in range(FRAMES_PER_WAKE):
            try:
                raw = self._socket.recv(bpf.SNAP_LENGTH)
            except BlockingIOError:
                return
            except OSError as error:
                # The link went down (or away); the owner sees it and opens a new listener when it is back.
                self.error = error.strerror or str(error)
                if error.errno not in (errno.ENETDOWN, errno.EINTR):
                    self.close()
                return
            self._take(raw)

    def _take(self, raw: bytes) -> None:
        now = time.time()
        if int(now) != self._second:
            self._second, self._in_second = int(now), 0
        self._in_second += 1
        if self._in_second > FRAMES_PER_SECOND:
            self.dropped += 1
            return
        self.frames += 1
        # An ARP request for our address.
        if raw[12:14] == b"\x08\x06" and raw[20:22] == b"\0\x01" and raw[38:42] == self._target:
            for asked in self.asked:
                asked(format_mac(raw[6:12]))
        for observation in interpret(raw, now):
            if observation.mac == self._own:
                continue
            for handler in tuple(self.handlers):
                handler(observation)

    def close(self) -> None:
        """Stop reading and leave the groups."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        for member in self._members:
            member.close()
        self._members.clear()
