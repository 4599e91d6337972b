"""The server dies, the database goes away, the disk fills: what was acknowledged stays, and only that was."""

from __future__ import annotations

import random
import resource
import socket
import ssl
import threading
import time

import pytest
import requests
import sqlalchemy as sa

from central_command import signing
from central_command.tables import devices, evidence
from central_command.verification import Outcome
from tests.central_command.conftest import DATABASES, MakeCentral
from tests.central_command.rig import GENEROUS, Central, DeviceClient, Person, Postgres, Refused
from tests.central_command.test_evidence import stored, verdict

pytestmark = pytest.mark.exhaustive


def hammer(device: DeviceClient, acknowledged: list[int], stop: threading.Event) -> None:
    """Upload one bundle after the other until the server is gone, noting what it has acknowledged."""
    while not stop.is_set():
        before = device.head
        try:
            receipt = device.upload(device.bundle())
        except (requests.RequestException, Refused):
            device.head = before
            return
        acknowledged.append(receipt.head.sequence)


@pytest.mark.parametrize("kind", DATABASES)
def test_a_server_killed_while_it_takes_evidence_loses_nothing_it_acknowledged(
    make_central: MakeCentral, kind: str
) -> None:
    central = make_central(kind).start()
    fleet = [central.device() for _ in range(2)]
    acknowledged: dict[str, list[int]] = {device.device_id: [0] for device in fleet}
    chance = random.Random(2026)
    for _ in range(2):
        stop = threading.Event()
        threads = [threading.Thread(target=hammer, args=(d, acknowledged[d.device_id], stop)) for d in fleet]
        for thread in threads:
            thread.start()
        wanted = sum(len(taken) for taken in acknowledged.values()) + chance.randint(5, 30)
        deadline = time.monotonic() + 20
        while sum(len(taken) for taken in acknowledged.values()) < wanted and time.monotonic() < deadline:
            time.sleep(0.005)
        central.kill()
        stop.set()
        for thread in threads:
            thread.join()
        central.start()
        for device in fleet:
            reply = device.check_in()
            assert reply.evidence_head.sequence >= max(acknowledged[device.device_id])
            device.head = reply.evidence_head
    for device in fleet:
        assert len(acknowledged[device.device_id]) > 3
        assert stored(device) == list(range(1, device.head.sequence + 1))
        assert verdict(device).outcome == 0
    central.stop()


@pytest.mark.parametrize("kind", DATABASES)
def test_a_restart_keeps_devices_orders_sessions_and_the_key(make_central: MakeCentral, kind: str) -> None:
    central = make_central(kind).start()
    device, person = central.device(), Person(central)
    person.submit(f"/devices/{device.device_id}/orders", type="run_scan")
    central.kill()
    central.start(int(central.url.rsplit(":", 1)[1]))
    assert person.get("/devices").status_code == 200
    (order,) = device.orders(device.check_in())
    assert order.type == "run_scan"
    central.stop()


@pytest.mark.postgresql
def test_a_database_that_is_away_is_a_503_and_comes_back_without_a_restart(make_central: MakeCentral) -> None:
    own = Postgres()
    central = make_central("postgresql")
    central.database_url = own.new_url()
    central.prepare().start()
    try:
        device = central.device()
        device.upload(device.bundle())
        own.stop("immediate")
        head = device.head
        with pytest.raises(Refused) as refused:
            device.upload(device.bundle())
        assert refused.value.status == 503 and refused.value.content_type == "application/problem+json"
        with pytest.raises(Refused) as refused:
            device.check_in()
        assert refused.value.status == 503
        assert Person(central, None).get("/healthz").status_code == 503
        own.start()
        device.head = head
        assert device.upload(device.bundle()).head.sequence == 2
        assert stored(device) == [1, 2]
    finally:
        central.stop()
        own.close()


def test_a_full_disk_is_a_503_and_evidence_flows_again_when_there_is_space(make_central: MakeCentral) -> None:
    central = make_central("sqlite").start()
    device = central.device()
    device.upload(device.bundle())
    assert central.process is not None
    # A limit on file sizes is what a full disk looks like to SQLite, and needs no disk of its own.
    free = resource.prlimit(central.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(central.process.pid, resource.RLIMIT_FSIZE, (4096, free[1]))
    head = device.head
    with pytest.raises(Refused) as refused:
        device.upload(*[device.bundle() for _ in range(20)])
    assert refused.value.status == 503 and refused.value.content_type == "application/problem+json"
    with pytest.raises(Refused) as refused:
        device.check_in()
    assert refused.value.status == 503
    resource.prlimit(central.process.pid, resource.RLIMIT_FSIZE, free)
    device.head = head
    assert device.upload(*[device.bundle() for _ in range(20)]).head.sequence == 21
    assert verdict(device).outcome == 0
    central.stop()


def test_a_lost_server_key_stops_the_start_instead_of_stranding_every_device(make_central: MakeCentral) -> None:
    central = make_central("sqlite").start()
    device = central.device()
    central.stop()
    key = central.data / signing.KEY_FILE
    assert key.stat().st_mode & 0o777 == 0o600
    saved = key.read_bytes()
    key.unlink()
    tried = central.cli("serve", "--host", "127.0.0.1", "--port", "0")
    assert tried.returncode == 3 and "restore it from the backup" in tried.stderr and not key.exists()
    key.write_bytes(saved)
    central.start()
    assert device.check_in().device_id == device.device_id
    central.stop()


@pytest.mark.parametrize("before", ["", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["at once", "after a request"])
@pytest.mark.parametrize(
    "sent",
    [
        "POST /device/v1/chec",
        "POST /device/v1/checkin HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab",
    ],
    ids=["half a head", "half a body"],
)
def test_a_client_that_stops_in_mid_request_is_hung_up_on(sqlite_central: Central, before: str, sent: str) -> None:
    port = int(sqlite_central.url.rsplit(":", 1)[1])
    context = ssl.create_default_context(cafile=str(sqlite_central.certificates.ca))
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1") as client:
        client.settimeout(20)
        client.sendall(before.encode())
        if before:
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.sendall(sent.encode())
        heard = b""
        while part := client.recv(65536):
            heard += part
        assert (b"HTTP/1.1 408 " in heard) == ("Content-Length" in sent)


def test_a_port_that_is_taken_is_said_in_a_sentence(sqlite_central: Central, make_central: MakeCentral) -> None:
    other = make_central("sqlite")
    tried = other.cli("serve", "--port", sqlite_central.url.rsplit(":", 1)[1])
    assert tried.returncode == 3 and "another server running" in tried.stderr


def test_a_stop_lets_requests_in_flight_finish(make_central: MakeCentral) -> None:
    central = make_central("sqlite").start()
    device = central.device()
    acknowledged: list[int] = []
    stop = threading.Event()
    thread = threading.Thread(target=hammer, args=(device, acknowledged, stop))
    thread.start()
    deadline = time.monotonic() + 20
    while len(acknowledged) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    central.stop()
    stop.set()
    thread.join()
    central.start()
    assert device.check_in().evidence_head.sequence >= max(acknowledged)
    central.stop()


def test_what_somebody_with_the_database_does_to_the_chain_is_found(make_central: MakeCentral) -> None:
    central = make_central("sqlite", GENEROUS).start()
    first, second = central.device(), central.device()
    for device in (first, second):
        device.upload(*[device.bundle() for _ in range(6)])
    central.stop()
    for trigger in ("evidence_no_update", "evidence_no_delete"):
        central.change(sa.text(f"DROP TRIGGER {trigger}"))
    assert verdict(first).outcome == verdict(second).outcome == Outcome.OK

    central.change(sa.update(evidence).where(*at(first, 3)).values(digest="e" * 64))
    assert verdict(first).outcome == Outcome.TAMPERED

    central.change(sa.delete(evidence).where(*at(second, 6)))
    assert verdict(second).outcome == Outcome.INCOMPLETE, "the end was cut off"
    central.change(sa.delete(evidence).where(*at(second, 3)))
    assert verdict(second).outcome == Outcome.INCOMPLETE, "one is missing in the middle"
    # Whoever also sets the head back meets what the device itself has said of its head.
    central.change(sa.update(devices).values(evidence_sequence=5, evidence_digest="f" * 64))
    assert verdict(second).outcome == Outcome.TAMPERED


def at(device: DeviceClient, sequence: int) -> tuple[sa.ColumnElement[bool], ...]:
    return evidence.c.device_id == device.device_id, evidence.c.sequence == sequence
