"""What the appliance is called: its names and addresses decide the certificate and which Host is answered."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

FIXED_NAME = "appliance.local"
_NETWORK_FILES = Path("/proc/self/net")


@dataclass(frozen=True)
class Names:
    """DNS names (lower case) and addresses under which the appliance may be opened."""

    dns: tuple[str, ...]
    addresses: tuple[str, ...]


def current(extra: tuple[str, ...] = (), network_files: Path = _NETWORK_FILES) -> Names:
    """The names and addresses of this moment; an address changes with a DHCP lease."""
    host = socket.gethostname().lower().rstrip(".")
    dns = [FIXED_NAME, "localhost", *(name.lower().rstrip(".") for name in extra)]
    if _is_name(host):
        dns.append(host)
        if "." not in host:
            dns.append(f"{host}.local")
    addresses = sorted(own_addresses(network_files) | _loopback(), key=lambda item: (item.version, int(item)))
    return Names(tuple(dict.fromkeys(dns)), tuple(str(address) for address in addresses))


def _is_name(host: str) -> bool:
    return 0 < len(host) <= 253 and all(char.isascii() and (char.isalnum() or char in "-.") for char in host)


def _loopback() -> frozenset[Address]:
    return frozenset({ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1")})


def own_addresses(network_files: Path = _NETWORK_FILES) -> frozenset[Address]:
    """Every address of every interface, as the kernel lists them (`fib_trie`, `if_inet6`); empty when it does not."""
    return _version_4(_lines(network_files / "fib_trie")) | _version_6(_lines(network_files / "if_inet6"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _version_4(lines: list[str]) -> frozenset[Address]:
    found: set[Address] = set()
    for before, line in pairwise(lines):
        if "/32 host LOCAL" in line and "|--" in before:
            found.add(ipaddress.IPv4Address(before.split("|--")[1].strip()))
    return frozenset(found)


def _version_6(lines: list[str]) -> frozenset[Address]:
    digits = [line.split()[0] for line in lines if line.strip()]
    return frozenset(ipaddress.IPv6Address(bytes.fromhex(text)) for text in digits
                     if len(text) == 32 and set(text) <= set("0123456789abcdef"))
