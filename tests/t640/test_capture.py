"""What the packet capture says is what was on the wire."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from t640.capture import Packet, payload_bytes, peak_rate, peak_rate_by_host, read

BOX, HOST = bytes.fromhex("80e82c640001"), bytes.fromhex("008077100015")


def _pcap(frames: list[tuple[float, bytes]]) -> bytes:
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    return head + b"".join(
        struct.pack("<IIII", int(at), round(at % 1 * 1e6), len(frame), len(frame)) + frame for at, frame in frames
    )


def _tcp(port: int, payload: bytes, trailer: bytes = b"") -> bytes:
    tcp = struct.pack("!HHIIBBHHH", 40000, port, 1, 1, 5 << 4, 0x18, 1000, 0, 0) + payload
    addresses = socket.inet_aton("10.77.0.50") + socket.inet_aton("10.77.0.15")
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + addresses
    return HOST + BOX + b"\x08\x00" + ip + tcp + trailer


def test_a_tcp_payload_is_told_from_ethernet_padding(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(_pcap([(1.0, _tcp(9100, b"", b"\0" * 6)), (1.5, _tcp(80, b"GET /"))]))
    packets = list(read(path))
    assert payload_bytes(packets, "10.77.0.15") == {("tcp", 80): 5}
    assert packets[1].source_mac == "80:e8:2c:64:00:01"
    assert packets[1].time == 1.5


def test_a_record_cut_off_by_a_killed_tcpdump_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(_pcap([(1.0, _tcp(80, b"a")), (2.0, _tcp(80, b"b"))])[:-3])
    assert len(list(read(path))) == 1


def test_an_arp_question_names_who_is_asked_for(tmp_path: Path) -> None:
    body = BOX + socket.inet_aton("10.77.0.50") + b"\0" * 6 + socket.inet_aton("10.77.0.77")
    path = tmp_path / "x.pcap"
    path.write_bytes(_pcap([(1.0, b"\xff" * 6 + BOX + b"\x08\x06" + b"\0\x01\x08\0\x06\x04\0\x01" + body)]))
    (packet,) = read(path)
    assert (packet.protocol, packet.destination) == ("arp", "10.77.0.77")


def _at(times: list[float], destination: str = "10.77.0.9") -> list[Packet]:
    return [Packet(time, "a", "b", "tcp", destination=destination) for time in times]


def test_a_burst_across_the_turn_of_a_second_is_seen() -> None:
    assert peak_rate(_at([0.9, 0.95, 1.0, 1.05, 3.0])) == 4


@given(st.lists(st.floats(0, 20), max_size=60))
def test_the_peak_is_what_counting_every_window_gives(times: list[float]) -> None:
    expected = max((sum(1 for other in times if start <= other < start + 1) for start in times), default=0)
    # The window's edge is where floating point may differ by one packet.
    assert abs(peak_rate(_at(times)) - expected) <= 1


def test_hosts_are_counted_apart() -> None:
    packets = _at([0.1, 0.2, 0.3], "10.77.0.1") + _at([0.1], "10.77.0.2")
    assert peak_rate_by_host(packets) == {"10.77.0.1": 3, "10.77.0.2": 1}
