"""MAC and IP addresses: one spelling of each, and the questions the scanner asks of them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

IPv4 = ipaddress.IPv4Address
IPv6 = ipaddress.IPv6Address
Network4 = ipaddress.IPv4Network

BROADCAST_MAC = "ff:ff:ff:ff:ff:ff"
_MAC = re.compile(r"^[0-9a-f]{2}(?:([:-]?)[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}$")


def format_mac(raw: bytes) -> str:
    """Six bytes as lower case with colons."""
    return raw.hex(":")


def parse_mac(text: str) -> str:
    """Any usual spelling (colons, hyphens, dots, bare) as lower case with colons. Raises `ValueError`."""
    lowered = text.strip().lower()
    if re.fullmatch(r"[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4}", lowered):
        lowered = lowered.replace(".", "")
    if not _MAC.match(lowered):
        raise ValueError(f"{text[:40]!r} is not a MAC address")
    return format_mac(bytes.fromhex(re.sub("[:-]", "", lowered)))


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a MAC address in our own spelling."""
    return bytes.fromhex(mac.replace(":", ""))


def is_group(mac: str) -> bool:
    """Whether the address is a broadcast or multicast one, which no device can own."""
    return bool(mac_bytes(mac)[0] & 0x01) or mac == "00:00:00:00:00:00"


def is_local(mac: str) -> bool:
    """Whether the address is locally administered: made up by software, so it names no vendor (IEEE 802, 8.2.2)."""
    return bool(mac_bytes(mac)[0] & 0x02)


def is_device_ipv4(text: str) -> bool:
    """Whether an IPv4 address can belong to one host on a local network."""
    try:
        address = IPv4(text)
    except ValueError:
        return False
    return not (
        address.is_unspecified or address.is_multicast or address.is_loopback or address.is_reserved
        or text == "255.255.255.255"
    )


def is_device_ipv6(text: str) -> bool:
    """Whether an IPv6 address can belong to one host on a local network."""
    try:
        address = IPv6(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_multicast or address.is_loopback)


def hosts(network: Network4) -> Iterator[str]:
    """Every address a host may have in `network`, in order."""
    return (str(address) for address in network.hosts())
