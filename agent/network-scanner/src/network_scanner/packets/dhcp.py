"""DHCP (RFC 2131, 2132): what a client says of itself when it asks for an address, and who answers it."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from network_scanner.addresses import format_mac
from network_scanner.packets import PacketError
from network_scanner.text import clean

COOKIE = b"\x63\x82\x53\x63"
DISCOVER, OFFER, REQUEST, ACK, RELEASE, INFORM = 1, 2, 3, 5, 7, 8
MAX_OPTIONS = 128


@dataclass(frozen=True, slots=True)
class Dhcp:
    """A DHCP message. `address` is the one the client has, wants or is given, as far as the message tells."""

    kind: int
    from_server: bool
    client_mac: str
    address: str = ""
    hostname: str = ""
    vendor_class: str = ""
    parameters: str = ""
    """Option 55, decimal with commas, in the client's order: a fingerprint of its DHCP client."""
    client_id: str = ""
    server: str = ""
    routers: tuple[str, ...] = field(default=())


def parse(raw: bytes) -> Dhcp:
    """Read a message. Raises `PacketError` when it is not DHCP over Ethernet or its options do not add up."""
    if len(raw) < 240 or raw[236:240] != COOKIE or raw[1:3] != b"\x01\x06" or raw[0] not in (1, 2):
        raise PacketError("not a DHCP message over Ethernet")
    options = _options(raw[240:])
    kind = options.get(53, b"")
    if len(kind) != 1:
        raise PacketError("a BOOTP message without DHCP message type")
    client, yours = raw[12:16], raw[16:20]
    wanted = options.get(50, b"")
    address = next((part for part in (yours, client, wanted) if len(part) == 4 and any(part)), b"")
    routers = options.get(3, b"")
    return Dhcp(
        kind=kind[0],
        from_server=raw[0] == 2,
        client_mac=format_mac(raw[28:34]),
        address=socket.inet_ntoa(address) if address else "",
        hostname=clean(options.get(12, b"").rstrip(b"\0"), 64) or _fqdn(options.get(81, b"")),
        vendor_class=clean(options.get(60, b"")),
        parameters=",".join(str(number) for number in options.get(55, b"")[:64]),
        client_id=_client_id(options.get(61, b"")),
        server=socket.inet_ntoa(options[54]) if len(options.get(54, b"")) == 4 else "",
        routers=tuple(socket.inet_ntoa(routers[at : at + 4]) for at in range(0, len(routers) - 3, 4))[:4],
    )


def _options(raw: bytes) -> dict[int, bytes]:
    """Options by code; repeated ones are joined (RFC 3396)."""
    found: dict[int, bytes] = {}
    at = count = 0
    while at < len(raw) and raw[at] != 255:
        if raw[at] == 0:
            at += 1
            continue
        if at + 2 > len(raw) or at + 2 + raw[at + 1] > len(raw) or count >= MAX_OPTIONS:
            raise PacketError("DHCP options run past the end")
        found[raw[at]] = found.get(raw[at], b"") + raw[at + 2 : at + 2 + raw[at + 1]]
        at, count = at + 2 + raw[at + 1], count + 1
    return found


def _fqdn(option: bytes) -> str:
    """Host part of the client's FQDN option (RFC 4702), in either of its encodings."""
    if len(option) < 4:
        return ""
    if option[0] & 0x04:
        length = option[3]
        return clean(option[4 : 4 + length], 64) if 0 < length <= 63 else ""
    return clean(option[3:], 253).split(".")[0][:64]


def _client_id(option: bytes) -> str:
    """Option 61 in hexadecimal; empty when it only repeats a hardware address, which says nothing new."""
    return "" if len(option) < 2 or (option[0] == 1 and len(option) == 7) else option[:64].hex()
