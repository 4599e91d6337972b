"""A scan of real hosts on a real (virtual) wire: what it finds, how gently, and whom it leaves alone."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from network_scanner import ports
from tests.network_scanner.conftest import (
    CLINIC,
    DICOM,
    EXCLUDED,
    MONITOR,
    PRINTER,
    SERVER,
    SILENT,
    TARPIT,
    VISITOR,
    WINDOWS,
    Scanned,
)
from tests.network_scanner.lab import PROGRAM, Host, most_in_a_second, readable_by_anybody

pytestmark = pytest.mark.netns


@pytest.mark.exhaustive
def test_never_more_than_a_hundred_packets_in_any_second(scanned: Scanned) -> None:
    assert len(scanned.packets) > 200
    assert most_in_a_second(scanned.packets) <= 100


@pytest.mark.parametrize("host", CLINIC, ids=lambda host: host.name)
def test_never_more_than_ten_packets_a_second_to_one_host(scanned: Scanned, host: Host) -> None:
    assert most_in_a_second(scanned.sent_to(host)) <= 10


def test_every_packet_that_left_is_accounted_for(scanned: Scanned) -> None:
    counted = scanned.result["scan"]["packets_sent"]
    assert counted == pytest.approx(len(scanned.packets), rel=0.08)


@pytest.mark.parametrize("host", SILENT, ids=lambda host: host.name)
def test_printers_and_medical_devices_never_receive_a_byte(scanned: Scanned, host: Host) -> None:
    assert host.name not in scanned.received
    assert [packet for packet in scanned.sent_to(host) if packet.tcp_payload] == []
    # The services of the others were spoken to, so the silence is not that of a scan that did nothing.
    assert b"GET / " in scanned.received[TARPIT.name][80]


def test_printing_ports_are_not_even_connected_to_on_any_host(scanned: Scanned) -> None:
    assert not {packet.target_port for packet in scanned.packets} & ports.NEVER


def test_a_medical_vendor_prefix_keeps_every_connection_away(scanned: Scanned) -> None:
    assert [packet for packet in scanned.sent_to(MONITOR) if packet.kind != 0x0806] == []
    device = scanned.device(MONITOR)
    assert (device["device_class"], device["policy"]) == ("medical", "limited")


def test_an_open_medical_port_ends_the_visit_after_a_clean_close(scanned: Scanned) -> None:
    touched = {packet.target_port for packet in scanned.sent_to(DICOM)} - {0}
    assert touched <= set(ports.MEDICAL)
    segments = [packet.raw[47] for packet in scanned.sent_to(DICOM) if packet.target_port]
    assert not any(flags & 0x04 for flags in segments), "no reset: every connection is closed cleanly"
    device = scanned.device(DICOM)
    assert (device["device_class"], device["policy"]) == ("medical", "limited")
    assert len(device["services"]) == 1


def test_an_excluded_device_gets_no_packet_at_all(scanned: Scanned) -> None:
    assert scanned.sent_to(EXCLUDED) == []


def test_while_a_device_is_excluded_no_multicast_question_is_asked(scanned: Scanned) -> None:
    assert {5353, 1900, 3702} & {packet.target_port for packet in scanned.packets} == set()


@pytest.mark.parametrize(("host", "expected"), [
    (SERVER, "server"), (PRINTER, "printer"), (DICOM, "medical"), (MONITOR, "medical"), (WINDOWS, "workstation"),
    (VISITOR, "unknown"),
], ids=lambda value: getattr(value, "name", value))
def test_devices_are_what_they_are_and_say_why(scanned: Scanned, host: Host, expected: str) -> None:
    device = scanned.device(host)
    assert device["device_class"] == expected, device
    assert device["reasons"]


def test_open_ports_banner_title_and_keys_of_real_servers_are_found(scanned: Scanned, tmp_path: Path) -> None:
    device = scanned.device(SERVER)
    assert [service["port"] for service in device["services"]] == [22, 80, 443]
    said = " ".join(device["reasons"])
    assert "nginx" in said
    assert "OpenSSH" in said


def test_a_hostile_banner_is_harmless(scanned: Scanned) -> None:
    text = str(scanned.device(TARPIT))
    assert "\\x1b" not in text
    assert "\x1b" not in text
    assert len(text) < 4000


def test_a_randomised_address_is_called_one(scanned: Scanned) -> None:
    device = scanned.device(VISITOR)
    assert (device["randomised_mac"], device["vendor"]) == (True, "")


def test_nobody_is_invented(scanned: Scanned) -> None:
    macs = {mac for device in scanned.result["devices"] for mac in device["mac_addresses"]}
    # The excluded host may have been heard, it was only never spoken to.
    assert {host.mac for host in CLINIC} - {EXCLUDED.mac} <= macs <= {host.mac for host in CLINIC}


# --- the command's other answers --------------------------------------------------------------------------------


def scan(scanned: Scanned, *arguments: str, user: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), "scan", *arguments, "--listen", "0", "--json"]
    if user:
        command = ["setpriv", "--reuid", user, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", *command]
        command = readable_by_anybody(command)
    return scanned.lab.run(command, check=False)


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["10.79.0.0/33", "--interface", "eth0"], 2, "not an IPv4 network"),
    (["10.79.0.0/24", "--interface", "eth9"], 4, "interfaces that are up: eth0"),
    (["192.0.2.0/24", "--interface", "eth0"], 4, "not on eth0"),
    (["10.0.0.0/8", "--interface", "eth0"], 4, "at most 4096"),
    (["10.79.0.0/24", "--interface", "eth0", "--config", "/none.toml"], 2, "/none.toml"),
    (["10.79.0.0/24", "--interface", "eth0", "--store", "/none.db"], 2, "nothing was sent"),
])
def test_a_scan_that_cannot_start_says_why_and_with_which_code(
    scanned: Scanned, arguments: list[str], code: int, said: str
) -> None:
    done = scan(scanned, *arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_without_the_capability_the_message_names_it(scanned: Scanned) -> None:
    done = scan(scanned, "10.79.0.0/24", "--interface", "eth0", user="65534")
    assert done.returncode == 3, done.stderr
    assert "CAP_NET_RAW" in done.stderr


def test_a_sweep_alone_connects_to_nothing_and_keeps_the_pace_when_nothing_else_holds_it_back(
    scanned: Scanned, tmp_path: Path
) -> None:
    stop = scanned.lab.capture(tmp_path / "sweep.pcap")
    result: dict[str, Any] = scanned.lab.scan("--sweep-only", network="10.79.0.0/25")
    packets = stop()
    assert result["scan"]["hosts_up"] == len(CLINIC)
    assert all(packet.target_port == 0 for packet in packets)
    assert len(packets) > 200
    assert most_in_a_second(packets) <= 100
