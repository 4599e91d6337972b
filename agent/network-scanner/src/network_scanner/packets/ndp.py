"""IPv6 neighbour discovery (RFC 4861): who has which IPv6 address."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from network_scanner.addresses import format_mac, mac_bytes
from network_scanner.packets import PacketError
from network_scanner.packets.ethernet import ICMPV6, IPV6

ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, SOLICITATION, ADVERTISEMENT = 133, 134, 135, 136

_OPTIONS_AT = {ROUTER_SOLICITATION: 8, ROUTER_ADVERTISEMENT: 16, SOLICITATION: 24, ADVERTISEMENT: 24}


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What one ICMPv6 message says: `address` belongs to `mac` (empty when the message does not say)."""

    kind: int
    address: str
    mac: str
    router: bool


def parse_icmpv6(source_ip: str, raw: bytes) -> Neighbour:
    """Read a neighbour discovery message. Raises `PacketError` for any other."""
    if len(raw) < 8:
        raise PacketError("ICMPv6 message too short")
    kind = raw[0]
    start = _OPTIONS_AT.get(kind)
    if start is None or len(raw) < start:
        raise PacketError(f"ICMPv6 type {kind} with {len(raw)} bytes")
    address = str(ipaddress.IPv6Address(raw[8:24])) if kind == ADVERTISEMENT else source_ip
    router = kind == ROUTER_ADVERTISEMENT or (kind == ADVERTISEMENT and bool(raw[4] & 0x80))
    # Option 2 (target's address) in advertisements of neighbours, option 1 (source's address) everywhere else.
    return Neighbour(kind, address, _link_layer(raw[start:], 2 if kind == ADVERTISEMENT else 1), router)


def _link_layer(options: bytes, wanted: int) -> str:
    at = 0
    while at + 8 <= len(options):
        kind, size = options[at], options[at + 1] * 8
        if size == 0:
            raise PacketError("an ICMPv6 option of length 0")
        if kind == wanted and size == 8:
            return format_mac(options[at + 2 : at + 8])
        at += size
    return ""


def solicitation(source_mac: str, source_ip: str, target_ip: str) -> bytes:
    """A neighbour solicitation for one known address, to its solicited-node group, as a frame."""
    raw = ipaddress.IPv6Address(target_ip).packed
    group = ipaddress.IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + raw[13:])
    body = bytes(4) + raw + b"\x01\x01" + mac_bytes(source_mac)
    mac = "33:33:" + format_mac(group.packed[12:])
    return _icmpv6(source_mac, source_ip, mac, str(group), bytes([SOLICITATION, 0]), body)


def _icmpv6(source_mac: str, source_ip: str, target_mac: str, target_ip: str, kind: bytes, body: bytes) -> bytes:
    source, target = ipaddress.IPv6Address(source_ip).packed, ipaddress.IPv6Address(target_ip).packed
    message = kind + b"\0\0" + body
    pseudo = source + target + struct.pack("!IxxxB", len(message), ICMPV6)
    message = kind + struct.pack("!H", checksum(pseudo + message)) + body
    header = struct.pack("!IHBB", 6 << 28, len(message), ICMPV6, 255) + source + target
    return mac_bytes(target_mac) + mac_bytes(source_mac) + IPV6.to_bytes(2, "big") + header + message


def checksum(raw: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = raw + b"\0" if len(raw) % 2 else raw
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
