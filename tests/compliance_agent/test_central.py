"""Every way in which Central Command is not reached has words of its own, and nothing unsigned is believed."""

from __future__ import annotations

import base64
import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance_protocol.clock import ClockReading, ClockState
from appliance_protocol.device_api import CheckIn, CheckInReply, EvidenceReceipt, QueueStatus
from appliance_protocol.envelope import PayloadType, seal
from appliance_protocol.evidence import ChainHead, Release
from appliance_protocol.keys import PrivateKey
from appliance_protocol.verdict import Score
from compliance_agent.central import Busy, Central, CentralError, Refused, Unreachable, Untrusted
from compliance_agent.config import CentralConfig
from compliance_agent.identity import Enrolment
from tests.compliance_agent.central_peer import DEVICE, CentralPeer, make_authority

ROOT = Path(__file__).parents[2]
KEY = PrivateKey.generate()
QUICK = CentralConfig(connect_timeout=1.0, read_timeout=1.0)
CHECKIN = CheckIn(
    DEVICE,
    7,
    ClockReading(1_790_000_000.0, 1.0, "boot", ClockState.SYNCHRONISED),
    1.0,
    "box",
    Release("t640", "2026.11.0"),
    "a",
    "2026.11.0",
    Score(1, 1),
    QueueStatus(0),
)


def enrolment(central: CentralPeer) -> Enrolment:
    central.device_key = KEY.public
    return Enrolment(DEVICE, "site", "Site", central.url, (central.key.public.text,), 0.0)


def way(central: CentralPeer, **changes: object) -> Central:
    config = dataclasses.replace(QUICK, **changes)  # type: ignore[arg-type]
    return Central(config, central.url, str(central.ca_file), KEY)


def ask(central: CentralPeer, **changes: object) -> CheckInReply:
    return way(central, **changes).check_in(CHECKIN, enrolment(central))


def test_a_signed_answer_is_believed(central: CentralPeer) -> None:
    assert ask(central).answers == 7


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((302, "text/html", b""), Unreachable, "captive portal.*login|http://portal.example/login"),
        ((200, "text/html", b"<html>Welcome to the guest network</html>"), Unreachable, "captive portal"),
        ((511, "text/plain", b"log in"), Unreachable, "captive portal"),
        ((200, "application/json", b"{}"), Untrusted, "unreadable answer"),
        ((200, "application/json", b"\xff" * 100), Untrusted, "unreadable answer"),
        ((200, "application/json", b"[" * 100_000), Untrusted, "unreadable answer"),
        ((200, "application/json", b"x" * 5_000_000), Untrusted, "more than"),
        ((503, "text/plain", b"maintenance"), Busy, "HTTP 503 from a proxy or gateway"),
        ((500, "application/problem+json", b'{"title": "no database"}'), Busy, "cannot answer now.*no database"),
        ((429, "application/problem+json", b'{"title": "slow down"}'), Busy, "slow down"),
        (
            (403, "application/problem+json", b'{"title": "unknown device", "detail": "enrol"}'),
            Refused,
            "device: enrol",
        ),
        ((404, "text/plain", b"not here"), Refused, "HTTP 404.*not here"),
        ((400, "application/problem+json", b"not json"), Refused, "unreadable problem"),
        ((403, "text/plain", b"\x1b[31mred\x00"), Refused, r"HTTP 403\): +\[31mred"),
    ],
)
def test_what_is_not_the_protocol_has_its_own_words(
    central: CentralPeer, answer: tuple[int, str, bytes], kind: type[CentralError], words: str
) -> None:
    central.mood = lambda path: answer
    with pytest.raises(kind, match=words):
        ask(central)


def test_an_answer_signed_by_another_key_is_not_believed(central: CentralPeer) -> None:
    forged = seal(CheckInReply(DEVICE, 7, 0.0), PayloadType.REPLY, PrivateKey.generate())
    central.mangle = lambda path, envelope: forged
    with pytest.raises(Untrusted, match="not Central Command's"):
        ask(central)


def test_an_answer_of_another_type_is_not_believed(central: CentralPeer) -> None:
    central.mangle = lambda path, envelope: seal(CheckInReply(DEVICE, 7, 0.0), PayloadType.ORDER, central.key)
    with pytest.raises(Untrusted):
        ask(central)


def test_an_answer_for_another_device_is_not_believed(central: CentralPeer) -> None:
    other = seal(CheckInReply("dev-other", 7, 0.0), PayloadType.REPLY, central.key)
    central.mangle = lambda path, envelope: other
    with pytest.raises(Untrusted, match="the answer is for device 'dev-other'"):
        ask(central)


def test_an_old_answer_is_not_believed(central: CentralPeer) -> None:
    central.mangle = lambda path, envelope: seal(CheckInReply(DEVICE, 6, 0.0), PayloadType.REPLY, central.key)
    with pytest.raises(Untrusted, match="repeats old answers"):
        ask(central)


def test_a_receipt_is_no_answer_to_a_check_in(central: CentralPeer) -> None:
    receipt = EvidenceReceipt(DEVICE, ChainHead(), 0)
    central.mangle = lambda path, envelope: seal(receipt, PayloadType.REPLY, central.key)
    with pytest.raises(Untrusted):
        ask(central)


def test_a_certificate_of_an_unknown_authority_is_told(central: CentralPeer, tmp_path: Path) -> None:
    other, _ = make_authority(tmp_path / "other")
    with pytest.raises(Unreachable, match=r"TLS certificate does not hold.*ca_file"):
        Central(QUICK, central.url, str(other), KEY).check_in(CHECKIN, enrolment(central))


def test_the_environment_cannot_replace_the_authority(
    central: CentralPeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = make_authority(tmp_path / "other")
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(other))
    assert ask(central).answers == 7


def test_a_closed_port_is_told() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    central = Central(QUICK, f"https://127.0.0.1:{port}", "", KEY)
    unknown = Enrolment(DEVICE, "site", "Site", "", (KEY.public.text,), 0.0)
    with pytest.raises(Unreachable, match=r"no connection \(.*refused.*\); check the uplink"):
        central.check_in(CHECKIN, unknown)


def test_an_unknown_name_is_told() -> None:
    unknown = Enrolment(DEVICE, "site", "Site", "", (KEY.public.text,), 0.0)
    central = Central(QUICK, "https://central.invalid", "", KEY)
    with pytest.raises(Unreachable, match=r"name is not known|no connection|proxy"):
        central.check_in(CHECKIN, unknown)


def test_a_dead_proxy_is_told(central: CentralPeer) -> None:
    with pytest.raises(Unreachable, match="the proxy does not let us through"):
        ask(central, proxy="http://127.0.0.1:9")


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that writes down what it is asked and lets nobody through; its address, without a scheme."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            asked.append(connection.recv(4096))
            connection.sendall(b"HTTP/1.1 403 Not for you\r\nContent-Length: 0\r\n\r\n")
            connection.close()

    threading.Thread(target=refuse, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}", asked
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_a_proxy_is_told_who_asks_and_only_for_the_way(central: CentralPeer, proxy: tuple[str, list[bytes]]) -> None:
    address, asked = proxy
    with pytest.raises(Unreachable, match="the proxy does not let us through"):
        ask(central, proxy=f"http://clinic:p%40ss@{address}")
    assert asked[0].startswith(b"CONNECT 127.0.0.1:")
    assert b"authorization: basic " + base64.b64encode(b"clinic:p@ss").lower() in asked[0].lower()
    assert DEVICE.encode() not in asked[0]


def test_without_a_proxy_of_its_own_the_environments_is_taken(
    central: CentralPeer, proxy: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = proxy
    monkeypatch.setenv("HTTPS_PROXY", address)
    with pytest.raises(Unreachable, match="the proxy does not let us through"):
        ask(central)
    assert asked


def test_an_address_the_environment_exempts_is_asked_directly(
    central: CentralPeer, proxy: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = proxy
    monkeypatch.setenv("HTTPS_PROXY", address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    assert ask(central).answers == 7
    assert not asked


def test_a_server_that_trickles_cannot_hold_the_agent(central: CentralPeer) -> None:
    def trickle(path: str) -> None:
        time.sleep(3)

    central.mood = trickle  # type: ignore[assignment]
    with pytest.raises(Unreachable, match="did not come in time"):
        ask(central)


def test_a_plain_text_service_on_the_port_is_told(tmp_path: Path) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
            connection.close()

    threading.Thread(target=answer, daemon=True).start()
    unknown = Enrolment(DEVICE, "site", "Site", "", (KEY.public.text,), 0.0)
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(Unreachable, match=r"TLS certificate does not hold|no connection"):
        Central(QUICK, url, "", KEY).check_in(CHECKIN, unknown)
    listener.close()


FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


def test_in_1970_the_error_blames_the_clock_and_not_the_certificate(central: CentralPeer) -> None:
    if FAKETIME is None:
        pytest.skip("libfaketime (Debian: faketime) is not installed")
    program = (
        "import sys; from compliance_agent.central import *; from compliance_agent.config import CentralConfig\n"
        "from tests.compliance_agent.test_central import CHECKIN, KEY, DEVICE\n"
        "from compliance_agent.identity import Enrolment\n"
        "from compliance_agent.facts.clock import SystemClock\n"
        "print(SystemClock().read().state.value)\n"
        "way = Central(CentralConfig(), sys.argv[1], sys.argv[2], KEY)\n"
        "try: way.check_in(CHECKIN, Enrolment(DEVICE, 's', 'S', '', (KEY.public.text,), 0.0))\n"
        "except Unreachable as error: print(error)\n"
    )
    environment = dict(os.environ, LD_PRELOAD=str(FAKETIME), FAKETIME="@1970-01-01 00:01:00", TZ="UTC")
    environment["FAKETIME_DONT_FAKE_MONOTONIC"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", program, central.url, str(central.ca_file)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    state, error = done.stdout.splitlines()
    assert state == "unsynchronised"
    assert "the clock says 1970-01-01; certificates count once it is set" in error
