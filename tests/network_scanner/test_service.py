"""The service on a real wire, with CAP_NET_RAW as its only privilege, spoken to through its socket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance_protocol.inventory import Device, DeviceEvent, ScanSummary
from appliance_protocol.local import LocalServiceError, request
from appliance_protocol.local_models import ScannerStatus
from network_scanner.notify import notify
from tests.network_scanner.lab import PROGRAM, Host, Lab, readable_by_anybody
from tests.network_scanner.test_packets import mdns_response

pytestmark = pytest.mark.netns

LAPTOP = Host("laptop", "98:e7:43:20:00:01", "10.79.0.3")
SCALE = Host("scale", "00:1b:21:20:00:02", "10.79.0.4")
HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J"


class Running:
    """The service in the lab, and the conversation with it."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.socket = folder / "api.sock"
        self.config = folder / "config.toml"
        self.config.write_text(
            f'interface = "eth0"\nnetworks = ["10.79.0.0/29"]\nstate_directory = "{folder}"\nsocket = "{self.socket}"\n'
            "unknown_key = 1\n[probing]\nconnect = false\nask_names = false\n[schedule]\nscan_seconds = 86400\n"
        )
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(folder / "notify"))
        self.notified.settimeout(15)
        (folder / "notify").chmod(0o777)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it as an unprivileged user and wait for READY=1."""
        caps = "-all,+net_raw"
        command = ["env", f"NOTIFY_SOCKET={self.folder}/notify", "setpriv", "--reuid=65534", "--regid=65534",
                   "--clear-groups", f"--inh-caps={caps}", f"--ambient-caps={caps}", f"--bounding-set={caps}",
                   "--no-new-privs", str(PROGRAM), "run", "--config", str(self.config)]
        log = (self.folder / "log").open("ab")
        self.process = self.lab.start(self.lab.scanner, readable_by_anybody(command), stdout=log, stderr=log)
        log.close()
        while b"READY=1" not in self.notified.recv(100):
            pass

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def ask(self, method: str, resource: str, model: Any, body: object = None) -> Any:
        return request(self.socket, method, resource, model, body=body)

    def devices(self) -> dict[str, Device]:
        """By MAC address."""
        found: list[Device] = self.ask("GET", "/v1/devices", list[Device])
        return {mac: device for device in found for mac in device.mac_addresses}

    def scan(self) -> ScanSummary:
        """Start a scan and wait for its end."""
        started: ScanSummary = self.ask("POST", "/v1/scans", ScanSummary)
        found: ScanSummary = until(
            lambda: self.ask("GET", f"/v1/scans/{started.id}", ScanSummary), lambda scan: scan.finished_at is not None)
        return found


def until(ask: Callable[[], Any], good: Callable[[Any], bool], seconds: float = 15) -> Any:
    end = time.monotonic() + seconds
    while not good(answer := ask()):
        assert time.monotonic() < end, f"still {answer}"
        time.sleep(0.05)
    return answer


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with Lab([LAPTOP, SCALE]) as lab:
        folder = Path(f"/tmp/{lab.prefix}.service")
        folder.mkdir()
        try:
            os.chown(folder, 65534, 65534)
            running = Running(lab, folder)
            running.start()
            yield running
            running.notified.close()
        finally:
            shutil.rmtree(folder)


def test_a_scan_finds_the_hosts_and_is_listed(service: Running) -> None:
    scan = service.scan()
    assert (scan.hosts_up, scan.error) == (2, "")
    assert set(service.devices()) == {LAPTOP.mac, SCALE.mac}
    assert scan.id in {item.id for item in service.ask("GET", "/v1/scans", list[ScanSummary])}


def test_its_status_names_interface_network_and_odd_configuration(service: Running) -> None:
    status: ScannerStatus = service.ask("GET", "/v1/status", ScannerStatus)
    assert (status.interface, status.network, status.paused) == ("eth0", "10.79.0.0/24", False)
    assert any("unknown_key" in problem for problem in status.problems)


def test_its_socket_is_for_its_group_only(service: Running) -> None:
    assert service.socket.stat().st_mode & 0o777 == 0o660


def test_a_device_that_changes_its_address_stays_the_same_device(service: Running) -> None:
    service.scan()
    before = service.devices()[LAPTOP.mac]
    space = ["ip", "-n", service.lab.namespace(LAPTOP), "addr"]
    subprocess.run([*space, "del", "10.79.0.3/24", "dev", "eth0"], check=True)
    subprocess.run([*space, "add", "10.79.0.6/24", "dev", "eth0"], check=True)
    service.scan()
    after = service.devices()[LAPTOP.mac]
    assert after.id == before.id
    assert "10.79.0.6" in after.ip_addresses
    events = service.ask("GET", f"/v1/devices/{after.id}/history", list[DeviceEvent])
    assert "new-address" in {event.kind for event in events}


def test_what_a_host_announces_is_heard_and_its_hostile_name_is_harmless(service: Running) -> None:
    code = (
        "import socket,sys; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.setsockopt(0, socket.IP_MULTICAST_IF, socket.inet_aton('10.79.0.4')); s.bind(('10.79.0.4', 5353));"
        "s.sendto(bytes.fromhex(sys.argv[1]), ('224.0.0.251', 5353))"
    )
    message = mdns_response(HOSTILE.replace(".", "")).hex()
    subprocess.run(["ip", "netns", "exec", service.lab.namespace(SCALE), "python3", "-c", code, message], check=True)
    device = until(lambda: service.devices()[SCALE.mac], lambda item: item.device_class == "printer")
    assert device.name == "<img src=x onerror=alert(1)>[2J"


def test_an_excluded_device_gets_no_packet_from_any_later_scan_or_after_a_restart(service: Running) -> None:
    device = service.devices()[SCALE.mac]
    service.ask("PUT", f"/v1/devices/{device.id}/policy", Device, {"policy": "excluded"})
    stop = service.lab.capture(service.folder / "sent.pcap")
    service.scan()
    assert service.stop() == 0
    service.start()
    service.scan()
    packets = stop()
    assert len(packets) > 4
    assert [item for item in packets if SCALE.mac == item.target_mac or SCALE.ip == item.target] == []
    assert service.devices()[SCALE.mac].policy == "excluded"


def test_a_class_is_set_by_a_person_and_given_back_to_the_rules(service: Running) -> None:
    device = service.devices()[SCALE.mac]
    place = f"/v1/devices/{device.id}/class"
    locked = service.ask("PUT", place, Device, {"device_class": "medical"})
    assert (locked.device_class, locked.class_locked) == ("medical", True)
    free = service.ask("PUT", place, Device, {"device_class": None})
    assert (free.device_class, free.class_locked) == ("printer", False)


def test_a_pause_stops_a_running_scan_at_once_and_sends_nothing_until_it_is_over(service: Running) -> None:
    started = service.ask("POST", "/v1/scans", ScanSummary)
    # By the API, since a scan of so few addresses would be over before another program has started.
    service.ask("PUT", "/v1/pause", ScannerStatus, {"paused": True})
    stop = service.lab.capture(service.folder / "pause.pcap")
    ended = service.ask("GET", f"/v1/scans/{started.id}", ScanSummary)
    assert ended.error == "broken off"
    with pytest.raises(LocalServiceError, match=r"409.*paused"):
        service.ask("POST", "/v1/scans", ScanSummary)
    paused = subprocess.run([PROGRAM, "pause", "--socket", service.socket], capture_output=True, text=True, check=True)
    assert "resume" in paused.stdout
    status = subprocess.run([PROGRAM, "status", "--socket", service.socket], capture_output=True, text=True, check=True)
    assert status.stdout.startswith("paused on eth0")
    time.sleep(0.2)
    assert [packet for packet in stop() if packet.kind == 0x0806 and packet.raw[21] == 1] == []
    subprocess.run([PROGRAM, "resume", "--socket", service.socket], check=True, capture_output=True)
    assert service.scan().error == ""


def test_a_cable_pulled_is_told_and_mended_by_itself(service: Running) -> None:
    run = ["ip", "-n", service.lab.scanner, "link", "set", "eth0"]
    subprocess.run([*run, "down"], check=True)
    status = until(lambda: service.ask("GET", "/v1/status", ScannerStatus), lambda item: not item.interface)
    assert any("eth0 is down" in problem for problem in status.problems)
    with pytest.raises(LocalServiceError, match="409"):
        service.ask("POST", "/v1/scans", ScanSummary)
    subprocess.run([*run, "up"], check=True)
    until(lambda: service.ask("GET", "/v1/status", ScannerStatus), lambda item: item.interface == "eth0")
    assert service.scan().error == ""


def test_devices_are_printed_for_people_and_for_programs(service: Running) -> None:
    command = [PROGRAM, "devices", "--socket", service.socket]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"})
    assert LAPTOP.mac in text.stdout
    assert "\x1b" not in text.stdout
    plain = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert {LAPTOP.mac} <= {mac for item in json.loads(plain.stdout) for mac in item["mac_addresses"]}


@pytest.mark.parametrize(("method", "resource", "body", "status"), [
    ("GET", "/v1/devices/none", None, 404), ("GET", "/v1/nothing", None, 404), ("DELETE", "/v1/devices", None, 405),
    ("PUT", "/v1/devices/none/policy", {"policy": "standard"}, 404), ("GET", "/v1/scans/none", None, 404),
    ("GET", "/v1/scans?limit=x", None, 400), ("PUT", "/v1/pause", {"paused": "yes"}, 400),
    ("PUT", "/v1/pause", {"paused": True, "minutes": -1}, 400), ("PUT", "/v1/pause", ["x" * 20000], 413),
])
def test_a_wrong_request_gets_a_sentence_and_the_right_status(
    service: Running, method: str, resource: str, body: object, status: int
) -> None:
    with pytest.raises(LocalServiceError, match=f"answered {status}: .*error"):
        service.ask(method, resource, object, body)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=20),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner)))
@settings(max_examples=25, deadline=None)
def test_no_body_breaks_the_service(service: Running, body: object) -> None:
    device = service.devices()[LAPTOP.mac]
    for place in (f"/v1/devices/{device.id}/policy", f"/v1/devices/{device.id}/class"):
        with pytest.raises(LocalServiceError, match="answered 400"):
            service.ask("PUT", place, Device, body)


def test_the_watchdog_is_fed_and_a_stop_is_clean(service: Running) -> None:
    heard = service.notified.recv(100)
    assert b"WATCHDOG=1" in heard
    assert service.stop() == 0
    assert not service.socket.exists()
    service.start()


def test_a_systemd_that_does_not_read_never_holds_up_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        assert notify("READY=1")
        full = next(number for number in range(100_000) if not notify("WATCHDOG=1"))
        assert systemd.recv(100) == b"READY=1"
        assert notify("WATCHDOG=1"), f"after {full} unread ones there is room again"


def test_a_service_that_is_not_there_is_an_error_with_advice(tmp_path: Path) -> None:
    done = subprocess.run([PROGRAM, "status", "--socket", tmp_path / "none"], capture_output=True, text=True)
    assert done.returncode == 5
    assert "systemctl status network-scanner" in done.stderr


def test_an_anomaly_of_the_network_is_a_problem_a_person_reads(service: Running) -> None:
    space = ["ip", "-n", service.lab.namespace(LAPTOP), "addr"]
    subprocess.run([*space, "add", "10.79.0.5/24", "dev", "eth0"], check=True)
    other = ["ip", "-n", service.lab.namespace(SCALE), "addr"]
    subprocess.run([*other, "add", "10.79.0.5/24", "dev", "eth0"], check=True)
    service.scan()
    problems = service.ask("GET", "/v1/status", ScannerStatus).problems
    assert any("answer for 10.79.0.5" in problem for problem in problems), problems
    assert {LAPTOP.mac, SCALE.mac} <= set(service.devices())
