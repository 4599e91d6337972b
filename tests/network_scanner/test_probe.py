"""A visit to one host: in which order, when it ends, and what it says to whom."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import json
import random
import socket
import statistics
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.inventory import DeviceClass
from network_scanner import connect, ports, probe
from network_scanner.classify import shipped_rules
from network_scanner.facts import FactKind
from network_scanner.link import Link
from network_scanner.pacer import Pacer
from network_scanner.packets import PacketError, ssh
from network_scanner.probe import SILENT_LIMIT, Visit, port_order, visit_ports, visit_services
from tests.network_scanner.conftest import SERVER, Scanned

LOOPBACK = Link("lo", 1, "00:00:00:00:00:00", "127.0.0.1", ipaddress.IPv4Network("127.0.0.0/8"))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield server


def visit(**options: object) -> Visit:
    async def alive() -> bool:
        return True

    settings = {"allowed": lambda: True, "alive": alive, **options}
    return Visit("127.0.0.1", "00:00:00:00:00:01", **settings)  # type: ignore[arg-type]


@given(st.integers())
def test_medical_ports_come_first_and_printing_ports_never(seed: int) -> None:
    early, late = port_order(random.Random(seed))
    assert set(early[: len(ports.MEDICAL)]) == set(ports.MEDICAL)
    assert len(set(early + late)) == len(early + late) == 40
    assert not set(early + late) & ports.NEVER


@given(st.integers())
def test_no_port_that_comes_after_the_questions_can_tell_a_medical_device_or_a_printer(seed: int) -> None:
    early, late = port_order(random.Random(seed))
    telling = [rule for rule in shipped_rules() if rule.device_class in (DeviceClass.MEDICAL, DeviceClass.PRINTER)
               and FactKind.PORT in rule.kinds]
    assert [port for port in late if any(rule.match.search(f"{port}/tcp") for rule in telling)] == []
    # The rules do look at ports, so that this says something.
    assert any(rule.match.search(f"{port}/tcp") for port in early for rule in telling)
    assert {ports.SSH, *ports.HTTP, *ports.HTTPS} <= set(early), "what can be asked is known before it is asked"


async def test_a_printing_port_is_not_touched_even_when_somebody_lists_it(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = listener.getsockname()[1]
    monkeypatch.setattr(ports, "NEVER", frozenset({port}))
    seen = visit()
    await visit_ports(LOOPBACK, Pacer(), seen, [port])
    assert seen.open_ports == []
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


async def test_a_connection_is_opened_and_closed_without_a_byte_and_counted_exactly(listener: socket.socket) -> None:
    pacer, seen, got = Pacer(), visit(), asyncio.get_running_loop().create_future()

    async def serve() -> None:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        peer, _ = await loop.sock_accept(listener)
        got.set_result(await loop.sock_recv(peer, 100))
        peer.close()

    serving = asyncio.create_task(serve())
    await visit_ports(LOOPBACK, pacer, seen, [listener.getsockname()[1]])
    await serving
    assert got.result() == b""
    # SYN, ACK, FIN, ACK, and the ARP request that a first contact is charged for.
    assert pacer.sent == 4 + connect.NEIGHBOUR_COST


@pytest.mark.parametrize(("by_person", "visited"), [(False, 1), (True, 2)])
async def test_an_open_medical_port_ends_the_visit_unless_a_person_has_decided(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, by_person: bool, visited: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        first, second = listener.getsockname()[1], other.getsockname()[1]
        monkeypatch.setattr(ports, "MEDICAL", {first: "dicom"})
        seen = visit(stop_at_medical=not by_person)
        monkeypatch.setattr(connect, "CLOSE_TIMEOUT", 0.05)
        await visit_ports(LOOPBACK, Pacer(), seen, [first, second])
    assert len(seen.open_ports) == visited
    assert ("medical" in seen.stopped) is not by_person


async def test_a_policy_changed_during_the_visit_ends_it_before_the_next_connection(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "CLOSE_TIMEOUT", 0.05)
    answers = iter([True, True, False])
    seen = visit(allowed=lambda: next(answers, False))
    port = listener.getsockname()[1]
    await visit_ports(LOOPBACK, Pacer(), seen, [port] * 9)
    assert len(seen.open_ports) <= 2
    assert "policy" in seen.stopped


async def test_a_host_that_stops_answering_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "CONNECT_TIMEOUT", 0.03)
    asked = []

    async def dead() -> bool:
        asked.append(1)
        return False

    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        # Two connections fill the queue; the kernel drops further SYNs, as a host does that is no longer there.
        fillers = [socket.create_connection(full.getsockname()) for _ in range(1)]
        seen, pacer = visit(alive=dead), Pacer()
        await visit_ports(LOOPBACK, pacer, seen, [full.getsockname()[1]] * 40)
        for filler in fillers:
            filler.close()
    assert seen.stopped == "it stopped answering"
    assert len(asked) == 1
    assert pacer.sent <= SILENT_LIMIT + 2


async def test_who_did_not_say_that_it_speaks_ssh_is_not_asked_for_its_key(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "SSH", listener.getsockname()[1])
    seen = visit(open_ports=[ports.SSH])
    await visit_services(LOOPBACK, Pacer(), seen, lambda facts: True)
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


async def test_a_service_that_hangs_costs_the_others_little_while_it_is_waited_for(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts and never says a word: meanwhile no more is held back than an answer would make us send."""
    monkeypatch.setattr(ports, "HTTP", (listener.getsockname()[1],))
    monkeypatch.setattr(probe, "PAGE_WAIT", 0.5)
    monkeypatch.setattr(connect, "CLOSE_TIMEOUT", 0.01)
    pacer, held = Pacer(), list[int]()

    async def watch() -> None:
        while True:
            held.append(pacer._all.leased)
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    await visit_services(LOOPBACK, pacer, visit(open_ports=list(ports.HTTP)), lambda facts: True)
    watching.cancel()
    # The other values are those of the moments in which it connects, asks and closes.
    assert statistics.mode(held) == connect.LISTEN_COST
    # Nor does anything stay behind.
    assert pacer._all.leased == 0


@pytest.mark.netns
def test_keys_of_real_servers_are_read_without_logging_in(scanned: Scanned) -> None:
    code = f"""
import asyncio, json
from network_scanner.facts import Fact, FactKind
from network_scanner.link import open_link
from network_scanner.pacer import Pacer
from network_scanner.probe import Visit, visit_services

async def main():
    banner = [Fact(FactKind.SSH_BANNER, "OpenSSH")]
    visit = Visit({SERVER.ip!r}, {SERVER.mac!r}, lambda: True, None, open_ports=[22, 80, 443], facts=banner)
    found = []
    await visit_services(open_link("eth0"), Pacer(), visit, lambda facts: found.extend(facts) or True)
    print(json.dumps([[item.kind, item.value] for item in found]))
asyncio.run(main())
"""
    facts = dict(json.loads(scanned.lab.run([sys.executable, "-c", code]).stdout))
    assert facts["http-title"] == "Intranet"
    assert facts["tls-name"] == "intranet.clinic"
    key = scanned.lab.run(["sh", "-c", f"ssh-keyscan -t ed25519 {SERVER.ip} 2>/dev/null | ssh-keygen -lf -"]).stdout
    assert facts["ssh-key"] in key
    certificate = scanned.lab.run(["sh", "-c", f"openssl s_client -connect {SERVER.ip}:443 </dev/null 2>/dev/null | "
                                   "openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | sha256sum"]).stdout
    assert certificate.split()[0] == facts["tls-key"]


def test_a_host_key_is_read_only_once_it_is_complete() -> None:
    key = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))
    payload = b"\x1f" + len(key).to_bytes(4, "big") + key + bytes(20)
    raw = b"SSH-2.0-x\r\n" + (len(payload) + 5).to_bytes(4, "big") + b"\4" + payload + bytes(4)
    with pytest.raises(PacketError):
        ssh.host_key(raw[:-30])
    fingerprint = ssh.host_key(raw)
    assert fingerprint == "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
