"""One host, gently: which of the curated ports are open, and what the harmless ones say of themselves.

The order is the protection. Medical ports come first, and one that is open ends the visit: no further connection, and
never a byte. What is said by the rest (web pages, SSH, certificates) is only asked for after everything known has been
weighed once more, and never of anything that may be a printer or a medical device.
"""

from __future__ import annotations

import contextlib
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from network_scanner import ports
from network_scanner.connect import Connection, PortState, connect
from network_scanner.facts import Fact, FactKind, fact
from network_scanner.link import Link
from network_scanner.pacer import Pacer
from network_scanner.packets import PacketError, http, ssh, x509

SILENT_LIMIT = 8
"""Ports without any answer in a row, after which the host is asked by ARP whether it is still well."""
BANNER_WAIT = 1.0
HANDSHAKE_STEPS = 12
PAGE_WAIT = 1.5


@dataclass
class Visit:
    """A host being visited, and what was learnt. `allowed` is asked before every connection."""

    ip: str
    mac: str
    allowed: Callable[[], bool]
    alive: Callable[[], Awaitable[bool]]
    stop_at_medical: bool = True
    facts: list[Fact] = field(default_factory=list)
    open_ports: list[int] = field(default_factory=list)
    stopped: str = ""
    """Why the visit ended early, in words."""


def port_order(rng: random.Random | None = None) -> list[int]:
    """Medical ports first, each half in random order, so that no two hosts are asked in step."""
    generator = rng or random.Random()  # noqa: S311 - order, not secrecy
    medical, common = list(ports.MEDICAL), list(ports.COMMON)
    generator.shuffle(medical)
    generator.shuffle(common)
    return [port for port in medical + common if port not in ports.NEVER]


async def visit_ports(link: Link, pacer: Pacer, visit: Visit, order: Sequence[int] | None = None) -> None:
    """Connect to each port in turn, one connection at a time. Raises `OSError` when this machine cannot send."""
    silent, first = 0, True
    for port in order if order is not None else port_order():
        if port in ports.NEVER or not visit.allowed():
            visit.stopped = visit.stopped or ("" if visit.allowed() else "its policy no longer allows it")
            if not visit.allowed():
                return
            continue
        state, connection = await connect(link, pacer, visit.ip, port, host=visit.mac, first=first)
        first = False
        if connection is not None:
            await _opened(visit, port, connection)
            if port in ports.MEDICAL and visit.stop_at_medical:
                visit.stopped = f"port {port} is open: it may be a medical device"
                return
        silent = silent + 1 if state in (PortState.SILENT, PortState.UNREACHABLE) else 0
        if silent >= SILENT_LIMIT:
            if not await visit.alive():
                visit.stopped = "it stopped answering"
                return
            silent = 0


async def _opened(visit: Visit, port: int, connection: Connection) -> None:
    visit.open_ports.append(port)
    visit.facts.append(Fact(FactKind.PORT, f"{port}/tcp"))
    try:
        if port == ports.SSH:
            # An SSH server speaks first; listening sends nothing.
            with contextlib.suppress(PacketError):
                banner = ssh.parse_banner(await connection.step(b"", BANNER_WAIT))
                visit.facts += fact(FactKind.SSH_BANNER, banner)
    finally:
        await connection.close()


async def visit_services(link: Link, pacer: Pacer, visit: Visit, learnt: Callable[[list[Fact]], bool]) -> None:
    """Ask the open web and SSH ports what they are. `learnt` takes the facts and says whether we may go on.

    Raises `OSError` when this machine cannot send.
    """
    steps = (
        (ports.HTTP, _start_page), (ports.HTTPS, _certificate), ((ports.SSH,), _ssh_key),
    )
    for candidates, step in steps:
        port = next((number for number in candidates if number in visit.open_ports), None)
        if port is None or not visit.allowed():
            continue
        _, connection = await connect(link, pacer, visit.ip, port, host=visit.mac)
        if connection is None:
            continue
        try:
            found = await step(connection, visit.ip)
        finally:
            await connection.close()
        if not learnt(found):
            return


async def _start_page(connection: Connection, ip: str) -> list[Fact]:
    raw = await connection.exchange(http.request(ip), http.MAX_BYTES, PAGE_WAIT)
    try:
        answer = http.parse(raw)
    except PacketError:
        return []
    return [
        *fact(FactKind.HTTP_SERVER, answer.server), *fact(FactKind.HTTP_TITLE, answer.title or answer.realm),
    ]


async def _ssh_key(connection: Connection, _: str) -> list[Fact]:
    raw = await connection.exchange(ssh.key_exchange(), 4096, BANNER_WAIT)
    try:
        return list(fact(FactKind.SSH_KEY, ssh.host_key(raw)))
    except PacketError:
        return []


async def _certificate(connection: Connection, _: str) -> list[Fact]:
    try:
        certificate = x509.parse(await _handshake(connection))
    except (PacketError, OSError, ValueError):
        return []
    return [*fact(FactKind.TLS_NAME, certificate.name), *fact(FactKind.TLS_KEY, certificate.key)]


async def _handshake(connection: Connection) -> bytes:
    """The server's certificate. It is evidence, not trust: nothing is verified and nothing is sent over it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = _context().wrap_bio(incoming, outgoing)
    for _ in range(HANDSHAKE_STEPS):
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            received = await connection.step(outgoing.read(), PAGE_WAIT)
            if not received:
                raise PacketError("the connection ended during the handshake") from None
            incoming.write(received)
    with contextlib.suppress(ssl.SSLError):
        tls.unwrap()
    await connection.step(outgoing.read(), BANNER_WAIT)
    return tls.getpeercert(binary_form=True) or b""


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # Old devices are the ones worth knowing about.
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context
