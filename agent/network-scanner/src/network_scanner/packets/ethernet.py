"""Ethernet frames, ARP (RFC 826) and the IP and UDP headers around what the listener reads."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

from network_scanner.addresses import BROADCAST_MAC, format_mac, mac_bytes
from network_scanner.packets import PacketError

ARP, IPV4, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100
REQUEST, REPLY = 1, 2
UDP, ICMPV6 = 17, 58

_ARP = struct.Struct("!HHBBH6s4s6s4s")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `kind` is its EtherType after any VLAN tags."""

    target: str
    source: str
    kind: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Arp:
    """An ARP message for IPv4 over Ethernet."""

    operation: int
    sender_mac: str
    sender_ip: str
    target_mac: str
    target_ip: str


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram (or, with both ports 0, an ICMPv6 message) with its addresses."""

    source_ip: str
    target_ip: str
    source_port: int
    target_port: int
    payload: bytes
    protocol: int = UDP


def parse_frame(raw: bytes) -> Frame:
    """Read an Ethernet II frame, looking through 802.1Q and 802.1ad tags. Raises `PacketError`."""
    if len(raw) < 14:
        raise PacketError("frame shorter than its header")
    kind, start = int.from_bytes(raw[12:14], "big"), 14
    while kind in (VLAN, 0x88A8):
        if len(raw) < start + 4:
            raise PacketError("frame ends inside its VLAN tag")
        kind, start = int.from_bytes(raw[start + 2 : start + 4], "big"), start + 4
    if kind < 0x600:
        kind, start = _snap(raw, start)
    return Frame(format_mac(raw[:6]), format_mac(raw[6:12]), kind, raw[start:])


def _snap(raw: bytes, start: int) -> tuple[int, int]:
    """EtherType of an IEEE 802.3 frame with LLC and SNAP headers (RFC 1042)."""
    if raw[start : start + 6] != b"\xaa\xaa\x03\x00\x00\x00" or len(raw) < start + 8:
        raise PacketError("an 802.3 frame without SNAP header")
    return int.from_bytes(raw[start + 6 : start + 8], "big"), start + 8


def parse_arp(payload: bytes) -> Arp:
    """Read an ARP message; trailing padding is ignored. Raises `PacketError`."""
    if len(payload) < _ARP.size:
        raise PacketError("ARP message too short")
    hardware, protocol, mac_size, ip_size, operation, *rest = _ARP.unpack(payload[: _ARP.size])
    if (protocol, mac_size, ip_size) != (IPV4, 6, 4) or hardware not in (1, 6):
        raise PacketError("not ARP for IPv4 over Ethernet")
    if operation not in (REQUEST, REPLY):
        raise PacketError(f"ARP operation {operation}")
    sender_mac, sender_ip, target_mac, target_ip = rest
    return Arp(
        operation, format_mac(sender_mac), socket.inet_ntoa(sender_ip), format_mac(target_mac),
        socket.inet_ntoa(target_ip),
    )


def arp_request(source_mac: str, source_ip: str, target_ip: str, target_mac: str = BROADCAST_MAC) -> bytes:
    """An ARP request as a frame, broadcast unless the target's MAC address is given."""
    ours = mac_bytes(source_mac)
    body = _ARP.pack(
        1, IPV4, 6, 4, REQUEST, ours, socket.inet_aton(source_ip), bytes(6), socket.inet_aton(target_ip)
    )
    return mac_bytes(target_mac) + ours + ARP.to_bytes(2, "big") + body


def parse_datagram(frame: Frame) -> Datagram:
    """The UDP datagram or ICMPv6 message in a frame. Raises `PacketError` for anything else, fragments included."""
    if frame.kind == IPV4:
        return _ipv4(frame.payload)
    if frame.kind == IPV6:
        return _ipv6(frame.payload)
    raise PacketError(f"EtherType {frame.kind:#06x}")


def _ipv4(raw: bytes) -> Datagram:
    if len(raw) < 20 or raw[0] >> 4 != 4:
        raise PacketError("no IPv4 header")
    header, total = (raw[0] & 15) * 4, int.from_bytes(raw[2:4], "big")
    fragment = int.from_bytes(raw[6:8], "big") & 0x3FFF
    if header < 20 or total > len(raw) or total < header or raw[9] != UDP or fragment:
        raise PacketError("not a whole UDP datagram")
    source, target = socket.inet_ntoa(raw[12:16]), socket.inet_ntoa(raw[16:20])
    return _udp(source, target, raw[header:total])


def _ipv6(raw: bytes) -> Datagram:
    if len(raw) < 40 or raw[0] >> 4 != 6:
        raise PacketError("no IPv6 header")
    length, following = int.from_bytes(raw[4:6], "big"), raw[6]
    if 40 + length > len(raw):
        raise PacketError("IPv6 packet shorter than it says")
    source = str(ipaddress.IPv6Address(raw[8:24]))
    target = str(ipaddress.IPv6Address(raw[24:40]))
    body = raw[40 : 40 + length]
    if following == ICMPV6:
        return Datagram(source, target, 0, 0, body, ICMPV6)
    if following != UDP:
        raise PacketError(f"IPv6 next header {following}")
    return _udp(source, target, body)


def _udp(source: str, target: str, raw: bytes) -> Datagram:
    if len(raw) < 8:
        raise PacketError("UDP header too short")
    source_port, target_port, length, _ = struct.unpack("!4H", raw[:8])
    if not 8 <= length <= len(raw):
        raise PacketError("UDP length does not fit")
    return Datagram(source, target, source_port, target_port, raw[8:length])
