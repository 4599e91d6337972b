"""One host, gently: which of the curated ports are open, and what the harmless ones say of themselves.

The order is the protection. Medical ports come first, and one that is open ends the visit: no further connection, and
never a byte. Then come the port that gives a printer away and those that can be asked (web pages, certificates, SSH).
With these known, everything known is weighed once more, and only what can be neither printer nor medical device is
asked: no port that comes later could change that verdict (`tests/network_scanner/test_probe.py` holds this against
the rules). The other ports come last, so that one host's slow answers are waited for while others are visited, and
not by everybody at the end of the scan.
"""

from __future__ import annotations

import contextlib
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from network_scanner import ports
from network_scanner.connect import EXCHANGE_COST, LISTEN_COST, Connection, PortState, connect
from network_scanner.facts import Fact, FactKind, fact
from network_scanner.link import Link
from network_scanner.pacer import Pacer
from network_scanner.packets import PacketError, http, ssh, x509

SILENT_LIMIT = 8
"""Ports without any answer in a row, after which the host is asked by ARP whether it is still well."""
BANNER_WAIT = 1.0
"""Seconds for a first word, and for the last one of a handshake."""
HANDSHAKE_STEPS = 12
PAGE_WAIT = 1.5
"""Seconds for each part of an answer: small devices make up their pages while one waits."""


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
    met: bool = False
    """Whether a connection has been tried."""
    silent: int = 0
    """Ports without any answer, in a row."""


def port_order(rng: random.Random | None = None) -> tuple[list[int], list[int]]:
    """The ports before the questions, medical ones first, and those after; shuffled, so that no hosts go in step."""
    generator = rng or random.Random()  # noqa: S311 - order, not secrecy
    medical, common = list(ports.MEDICAL), list(ports.COMMON)
    generator.shuffle(medical)
    generator.shuffle(common)
    early = [port for port in common if port in ports.EARLY]
    late = [port for port in common if port not in ports.EARLY]
    return medical + early, late


async def visit_ports(link: Link, pacer: Pacer, visit: Visit, order: Sequence[int]) -> None:
    """Connect to each port in turn, one connection at a time. Raises `OSError` when this machine cannot send."""
    for port in order:
        if port in ports.NEVER:
            continue
        if not visit.allowed():
            visit.stopped = visit.stopped or "its policy no longer allows it"
            return
        room = LISTEN_COST if port == ports.SSH else 0
        state, connection = await connect(link, pacer, visit.ip, port, host=visit.mac, first=not visit.met, room=room)
        visit.met = True
        if connection is not None:
            await _opened(visit, port, connection)
            if port in ports.MEDICAL and visit.stop_at_medical:
                visit.stopped = f"port {port} is open: it may be a medical device"
                return
        visit.silent = visit.silent + 1 if state in (PortState.SILENT, PortState.UNREACHABLE) else 0
        if visit.silent >= SILENT_LIMIT:
            if not await visit.alive():
                visit.stopped = "it stopped answering"
                return
            visit.silent = 0


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

    Who did not say that it speaks SSH is not asked for its key. Raises `OSError` when this machine cannot send.
    """
    speaks_ssh = any(item.kind is FactKind.SSH_BANNER for item in visit.facts)
    steps = (
        (ports.HTTP, _start_page), (ports.HTTPS, _certificate), ((ports.SSH,) if speaks_ssh else (), _ssh_key),
    )
    for candidates, step in steps:
        port = next((number for number in candidates if number in visit.open_ports), None)
        if port is None or not visit.allowed():
            continue
        _, connection = await connect(link, pacer, visit.ip, port, host=visit.mac, room=EXCHANGE_COST)
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
