"""The filter in front of the listener: what it does not let through never reaches this program.

A clinic's cables carry patient data in clear text (HL7, DICOM). The kernel drops every frame but ARP, neighbour
discovery and the datagrams by which devices introduce themselves, before user space could see a byte of it. TCP is
never let through, whatever its ports. The program is classic BPF (Linux: Documentation/networking/filter.rst).
"""

from __future__ import annotations

import array
import socket
import struct
from dataclasses import dataclass

UDP_PORTS = (67, 68, 137, 1900, 3702, 5353, 5355, 546, 547)
"""DHCP, NetBIOS names, SSDP, WS-Discovery, mDNS, LLMNR, DHCPv6."""
ICMPV6_TYPES = (133, 134, 135, 136)
"""Neighbour discovery."""
SNAP_LENGTH = 9216

SO_ATTACH_FILTER, SO_LOCK_FILTER = 26, 44
_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD = 0x30, 0x28, 0x20
_LOAD_HALF_INDEXED, _LOAD_X_HEADER = 0x48, 0xB1
_JUMP_EQUAL, _JUMP_SET, _RETURN = 0x15, 0x45, 0x06
_VLAN_TAG_PRESENT = 0xFFFFF000 + 48


@dataclass(frozen=True)
class _Step:
    """One instruction; `yes` and `no` name labels, empty for the next instruction."""

    code: int
    value: int
    yes: str = ""
    no: str = ""
    label: str = ""


def program() -> list[_Step]:
    """The filter, with labels still unresolved."""
    return [
        # A tagged frame belongs to another network than ours, even if the kernel shows it on this interface.
        _Step(_LOAD_WORD, _VLAN_TAG_PRESENT), _Step(_JUMP_EQUAL, 0, "", "drop"),
        _Step(_LOAD_HALF, 12),
        _Step(_JUMP_EQUAL, 0x0806, "take"),
        _Step(_JUMP_EQUAL, 0x86DD, "ipv6"),
        _Step(_JUMP_EQUAL, 0x0800, "", "drop"),
        _Step(_LOAD_BYTE, 23), _Step(_JUMP_EQUAL, 17, "", "drop"),
        # No fragments: the second one of a datagram has no ports to judge it by.
        _Step(_LOAD_HALF, 20), _Step(_JUMP_SET, 0x3FFF, "drop"),
        _Step(_LOAD_X_HEADER, 14),
        _Step(_LOAD_HALF_INDEXED, 14), *(_Step(_JUMP_EQUAL, port, "take") for port in UDP_PORTS),
        _Step(_LOAD_HALF_INDEXED, 16), *(_Step(_JUMP_EQUAL, port, "take") for port in UDP_PORTS),
        _Step(_RETURN, 0),
        _Step(_LOAD_BYTE, 20, label="ipv6"),
        _Step(_JUMP_EQUAL, 58, "icmpv6"), _Step(_JUMP_EQUAL, 17, "", "drop"),
        _Step(_LOAD_HALF, 54), *(_Step(_JUMP_EQUAL, port, "take") for port in UDP_PORTS),
        _Step(_LOAD_HALF, 56), *(_Step(_JUMP_EQUAL, port, "take") for port in UDP_PORTS),
        _Step(_RETURN, 0),
        _Step(_LOAD_BYTE, 54, label="icmpv6"), *(_Step(_JUMP_EQUAL, kind, "take") for kind in ICMPV6_TYPES),
        _Step(_RETURN, 0, label="drop"),
        _Step(_RETURN, SNAP_LENGTH, label="take"),
    ]


def assemble(steps: list[_Step]) -> bytes:
    """The program as the kernel's `struct sock_filter` array. Raises `ValueError` for a jump out of reach."""
    labels = {step.label: index for index, step in enumerate(steps) if step.label}

    def distance(index: int, label: str) -> int:
        offset = labels[label] - index - 1 if label else 0
        if not 0 <= offset <= 255:
            raise ValueError(f"jump of {offset} instructions to {label}")
        return offset

    return b"".join(
        struct.pack("HBBI", step.code, distance(index, step.yes), distance(index, step.no), step.value)
        for index, step in enumerate(steps)
    )


def attach(sock: socket.socket) -> None:
    """Put the filter in front of `sock` for good; it cannot be taken off again. Raises `OSError`."""
    # An array tells its address; ctypes would too, but wants memory that is both writable and executable.
    code = array.array("B", assemble(program()))
    address, size = code.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", size // 8, address))
    sock.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)


def run(steps: list[_Step], frame: bytes) -> int:
    """What the filter returns for `frame` (0: dropped), by interpreting it: so that a test can ask it anything."""
    labels = {step.label: index for index, step in enumerate(steps) if step.label}
    accumulator = index_register = at = 0
    while True:
        step = steps[at]
        if step.code == _RETURN:
            return step.value
        if step.code in (_JUMP_EQUAL, _JUMP_SET):
            hit = accumulator == step.value if step.code == _JUMP_EQUAL else bool(accumulator & step.value)
            label = step.yes if hit else step.no
            at = labels[label] if label else at + 1
            continue
        if step.value == _VLAN_TAG_PRESENT:
            accumulator = 0
        else:
            size = {_LOAD_BYTE: 1, _LOAD_X_HEADER: 1, _LOAD_HALF: 2, _LOAD_HALF_INDEXED: 2}.get(step.code, 4)
            start = step.value + (index_register if step.code == _LOAD_HALF_INDEXED else 0)
            if start + size > len(frame):
                return 0
            loaded = int.from_bytes(frame[start : start + size], "big")
            if step.code == _LOAD_X_HEADER:
                index_register = 4 * (loaded & 15)
            else:
                accumulator = loaded
        at += 1
