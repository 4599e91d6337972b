"""The kernel filter: what may reach this program, and that patient data never can."""

from __future__ import annotations

import socket
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from network_scanner import bpf

STEPS = bpf.program()


def ipv4(protocol: int, ports: tuple[int, int], *, fragment: int = 0, options: int = 0) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45 + options, 0, 60, 0, fragment, 64, protocol, 0)
    addresses = socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
    return bytes(12) + b"\x08\x00" + header + addresses + bytes(4 * options) + struct.pack("!HH", *ports) + bytes(40)


def ipv6(following: int, ports: tuple[int, int]) -> bytes:
    return bytes(12) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, 40, following, 64) + bytes(32) + struct.pack(
        "!HH", *ports) + bytes(36)


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 10))
@settings(max_examples=300, deadline=None)
def test_tcp_never_passes_whatever_its_ports_and_options(source: int, target: int, options: int) -> None:
    assert bpf.run(STEPS, ipv4(6, (source, target), options=options)) == 0
    assert bpf.run(STEPS, ipv6(6, (source, target))) == 0


@given(st.sampled_from(bpf.UDP_PORTS), st.integers(0, 65535), st.integers(0, 10))
def test_introductions_pass_in_both_directions(known: int, other: int, options: int) -> None:
    for ports in ((known, other), (other, known)):
        assert bpf.run(STEPS, ipv4(17, ports, options=options)) > 0
        assert bpf.run(STEPS, ipv6(17, ports)) > 0


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_other_datagrams_do_not_pass(source: int, target: int) -> None:
    if not {source, target} & set(bpf.UDP_PORTS):
        assert bpf.run(STEPS, ipv4(17, (source, target))) == 0
        assert bpf.run(STEPS, ipv6(17, (source, target))) == 0


def test_fragments_do_not_pass_since_they_have_no_ports() -> None:
    for fragment in (0x2000, 0x0001, 0x2001):
        assert bpf.run(STEPS, ipv4(17, (5353, 5353), fragment=fragment)) == 0


def test_arp_and_neighbour_discovery_pass_and_other_icmp_does_not() -> None:
    assert bpf.run(STEPS, bytes(12) + b"\x08\x06" + bytes(28)) > 0
    for kind in range(256):
        passed = bpf.run(STEPS, ipv6(58, (kind << 8, 0))) > 0
        assert passed == (kind in bpf.ICMPV6_TYPES)


@given(st.binary(max_size=80))
def test_any_bytes_are_judged_and_short_ones_dropped(raw: bytes) -> None:
    assert bpf.run(STEPS, raw) in (0, bpf.SNAP_LENGTH)


def test_the_program_fits_the_kernels_form() -> None:
    code = bpf.assemble(STEPS)
    assert len(code) == 8 * len(STEPS)
    assert len(STEPS) < 4096
