"""A small DHCP client (RFC 2131) for hosts that take an address and later another one.

`python -m t640.clinic.dhcp INTERFACE MAC HOSTNAME VENDOR WANTED HELD` gives the HELD address back (if not
empty), asks for the WANTED one (or any), configures the interface with what it is given and prints it.
"""

from __future__ import annotations

import secrets
import socket
import struct
import sys

from t640.clinic.truth import GATEWAY
from t640.errors import RigError
from t640.session import ip

_COOKIE = b"\x63\x82\x53\x63"
_DISCOVER, _OFFER, _REQUEST, _ACK, _RELEASE = 1, 2, 3, 5, 7
_PARAMETERS = {"MSFT 5.0": (1, 3, 6, 15, 31, 33, 43, 44, 46, 47, 119, 121, 249, 252)}
_ANDROID = (1, 3, 6, 15, 26, 28, 51, 58, 59, 43, 114, 108)


def _packet(kind: int, mac: str, transaction: int, options: dict[int, bytes], held: str = "0.0.0.0") -> bytes:
    hardware = bytes.fromhex(mac.replace(":", ""))
    header = struct.pack("!BBBBIHH4s12s16s", 1, 1, 6, 0, transaction, 0, 0x8000, socket.inet_aton(held), b"", hardware)
    body = b"".join(bytes([code, len(value)]) + value for code, value in ({53: bytes([kind])} | options).items())
    return (header + b"\0" * 192 + _COOKIE + body + b"\xff").ljust(300, b"\0")


def _options(packet: bytes) -> dict[int, bytes]:
    found, at = {}, 240
    while at < len(packet) and packet[at] != 255:
        if packet[at] == 0:
            at += 1
            continue
        length = packet[at + 1]
        found[packet[at]] = packet[at + 2 : at + 2 + length]
        at += 2 + length
    return found


def lease(interface: str, mac: str, hostname: str, vendor: str, wanted: str = "") -> str:
    """Get an address (the wanted one, if it is free). Raises `RigError` when no server answers."""
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    link.bind(("", 68))
    link.settimeout(4)
    transaction = secrets.randbits(32)
    common = {12: hostname.encode(), 60: vendor.encode(), 55: bytes(_PARAMETERS.get(vendor, _ANDROID))}
    ask = common | ({50: socket.inet_aton(wanted)} if wanted else {})
    for _ in range(5):
        link.sendto(_packet(_DISCOVER, mac, transaction, ask), ("255.255.255.255", 67))
        offer = _answer(link, transaction, _OFFER)
        if offer is None:
            continue
        address, server = offer
        link.sendto(_packet(_REQUEST, mac, transaction, common | {50: address, 54: server}), ("255.255.255.255", 67))
        if _answer(link, transaction, _ACK):
            return socket.inet_ntoa(address)
    raise RigError(f"No DHCP server gave {hostname} ({mac}) an address.")


def _answer(link: socket.socket, transaction: int, kind: int) -> tuple[bytes, bytes] | None:
    try:
        while True:
            packet = link.recv(2048)
            options = _options(packet)
            if packet[4:8] == transaction.to_bytes(4, "big") and options.get(53) == bytes([kind]):
                return packet[16:20], options.get(54, b"")
    except TimeoutError:
        return None


def release(mac: str, held: str, server: str) -> None:
    """Give an address back, so that the server may offer another one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        options = {54: socket.inet_aton(server)}
        link.sendto(_packet(_RELEASE, mac, secrets.randbits(32), options, held), (server, 67))


def main(arguments: list[str]) -> None:
    """Take a lease and configure the interface with it."""
    interface, mac, hostname, vendor, wanted, held = arguments
    if held:
        release(mac, held, GATEWAY.address)
    address = lease(interface, mac, hostname, vendor, wanted)
    ip("addr", "flush", "dev", interface)
    ip("addr", "add", f"{address}/24", "dev", interface)
    ip("route", "replace", "default", "via", GATEWAY.address)
    print(address, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
