"""Asking for names: one multicast question each, reverse look-ups at the resolver, and NetBIOS or SNMP where allowed.

The questions are those that any laptop in the room asks dozens of times a day. They reach everybody, so they are not
asked while a device is excluded: an exclusion cannot be made for a multicast.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Collection
from pathlib import Path

from network_scanner.facts import Fact, FactKind, fact
from network_scanner.link import Link, bind_socket
from network_scanner.pacer import Pacer
from network_scanner.packets import PacketError, dns, netbios, snmp, ssdp, wsd

MDNS_TYPES = (
    "_services._dns-sd._udp", "_ipp._tcp", "_printer._tcp", "_pdl-datastream._tcp", "_uscan._tcp", "_workstation._tcp",
    "_device-info._tcp", "_smb._tcp", "_hap._tcp", "_googlecast._tcp", "_airplay._tcp", "_dicom._tcp", "_acr-nema._tcp",
)
ANSWER_WAIT = 1.5
"""Seconds for answers to the multicast questions: SSDP's MX of 1 and some."""
ANSWER_ROOM = 12
"""Packets of each second kept free meanwhile."""


async def ask_everybody(link: Link, pacer: Pacer) -> None:
    """One packet by mDNS, SSDP and WS-Discovery each; the listener hears the answers. Waits for them."""
    questions = (
        ("224.0.0.251", 5353, dns.query([(f"{kind}.local", dns.PTR) for kind in MDNS_TYPES])),
        ("239.255.255.250", 1900, ssdp.SEARCH),
        ("239.255.255.250", 3702, wsd.probe()),
    )
    sockets = []
    # Whoever answers resolves our address first, and the kernel replies: leave room for that.
    room = await pacer.lease("", ANSWER_ROOM)
    try:
        for group, port, payload in questions:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            sockets.append(sock)  # kept open until the answers are in, so that no port-unreachable goes back
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(link.ip))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            bind_socket(sock, link)
            with contextlib.suppress(OSError):
                sock.sendto(payload, (group, port))
        await asyncio.sleep(ANSWER_WAIT)
    finally:
        room.settle(len(sockets))
        for sock in sockets:
            sock.close()


def resolver() -> str:
    """The first IPv4 name server of this machine, or an empty string."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            word = line.split()
            if len(word) > 1 and word[0] == "nameserver" and ":" not in word[1]:
                socket.inet_aton(word[1])
                return word[1]
    return ""


async def look_up(pacer: Pacer, server: str, ip: str, wait: float = 1.0) -> tuple[Fact, ...] | None:
    """The name the resolver knows for an address; nothing when it knows none, None when it does not answer."""
    identity = int.from_bytes(os.urandom(2), "big")
    answer = await _ask(pacer, server, 53, dns.query([(dns.reverse_name(ip), dns.PTR)], identity=identity,
                                                     recursion=True), wait, server)
    if not answer:
        return None
    with contextlib.suppress(PacketError):
        message = dns.parse(answer)
        if message.response and message.id == identity:
            wanted = dns.reverse_name(ip)
            found = (item.target for item in message.records if item.kind == dns.PTR and item.name.lower() == wanted)
            return fact(FactKind.DNS_NAME, next(found, ""), 120)
    return ()


async def netbios_name(pacer: Pacer, ip: str, host: str, wait: float = 1.0) -> tuple[Fact, ...]:
    """The NetBIOS name of a host that was found to speak it."""
    answer = await _ask(pacer, ip, 137, netbios.STATUS_QUERY, wait, host)
    with contextlib.suppress(PacketError):
        return fact(FactKind.NETBIOS_NAME, netbios.parse_status(answer), 15)
    return ()


async def snmp_description(pacer: Pacer, ip: str, host: str, community: str, wait: float = 1.0) -> tuple[Fact, ...]:
    """The system description by SNMP v2c."""
    answer = await _ask(pacer, ip, 161, snmp.description_request(community), wait, host)
    with contextlib.suppress(PacketError):
        return fact(FactKind.SNMP_DESCRIPTION, snmp.parse_description(answer))
    return ()


async def _ask(pacer: Pacer, ip: str, port: int, payload: bytes, wait: float, host: str) -> bytes:
    """One datagram and its answer, empty when none comes in time."""
    loop = asyncio.get_running_loop()
    await pacer.spend(host, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect((ip, port))
            async with asyncio.timeout(wait):
                await loop.sock_sendall(sock, payload)
                return await loop.sock_recv(sock, 4096)
        except (OSError, TimeoutError):
            return b""


async def look_up_all(pacer: Pacer, addresses: Collection[str]) -> dict[str, tuple[Fact, ...]]:
    """Reverse look-ups for many addresses, given up after three without any answer."""
    server, found, unanswered = resolver(), dict[str, tuple[Fact, ...]](), 0
    for ip in addresses:
        if not server or unanswered >= 3:
            break
        facts = await look_up(pacer, server, ip)
        unanswered = unanswered + 1 if facts is None else 0
        if facts:
            found[ip] = facts
    return found
