"""Who listens: /proc/net/{tcp,tcp6,udp,udp6}, as the kernel writes them (Documentation/networking/proc_net_tcp.rst)."""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import dataclass

from compliance_agent.checks._inputs import Inputs
from compliance_agent.errors import CheckError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LISTEN, UNCONNECTED = "0A", "07"
"""TCP_LISTEN; a UDP socket that is bound to no peer shows TCP_CLOSE."""
TABLES = {"tcp": LISTEN, "tcp6": LISTEN, "udp": UNCONNECTED, "udp6": UNCONNECTED}
PORT_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


@dataclass(frozen=True)
class Socket:
    """One socket that answers to strangers. `protocol` is `tcp` or `udp`, whatever the address family."""

    protocol: str
    address: Address
    port: int
    uid: int

    @property
    def name(self) -> str:
        """`tcp/443`, as it is declared."""
        return f"{self.protocol}/{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this box can reach it. `::ffff:127.0.0.1` is loopback; `::` takes IPv4 too and is not."""
        mapped = getattr(self.address, "ipv4_mapped", None)
        return bool((mapped or self.address).is_loopback)


def listening(inputs: Inputs) -> list[Socket]:
    """Every listening socket of this network namespace. Raises `CheckError`.

    The IPv6 tables are missing where the kernel has no IPv6; the IPv4 ones are always there.
    """
    found = []
    for table, state in TABLES.items():
        path = f"/proc/net/{table}"
        text = inputs.text_if_there(path, 8 << 20) if table.endswith("6") else inputs.text(path, 8 << 20)
        if text is not None:
            found += parse(text, table, state)
    return sorted(found, key=lambda socket: (socket.protocol, socket.port, str(socket.address)))


def parse(text: str, table: str, state: str) -> list[Socket]:
    """The sockets in `state` of one table. Raises `CheckError` for a table that is not one."""
    lines = text.splitlines()
    if not lines or "local_address" not in lines[0]:
        raise CheckError(f"/proc/net/{table} has no heading: it is not the kernel's table", f"/proc/net/{table}")
    found = []
    for line in lines[1:]:
        fields = line.split()
        try:
            address, port = _endpoint(fields[1])
            uid = int(fields[7])
            current = fields[3]
        except (IndexError, ValueError) as error:
            raise CheckError(
                f"/proc/net/{table}: {line[:100]!r} cannot be read: {error}", f"/proc/net/{table}"
            ) from error
        if current == state:
            found.append(Socket(table.removesuffix("6"), address, port, uid))
    return found


def ephemeral(inputs: Inputs) -> range:
    """The ports the kernel hands out by itself. Raises `CheckError`."""
    text = inputs.text(PORT_RANGE, 4096)
    try:
        first, last = (int(part) for part in text.split())
    except ValueError as error:
        raise CheckError(f"{PORT_RANGE} holds {text[:60]!r}, not two numbers", PORT_RANGE) from error
    return range(first, last + 1)


def _endpoint(text: str) -> tuple[Address, int]:
    """`0100007F:0050`: 32-bit words of the address in the machine's own byte order, and the port in hexadecimal."""
    words, _, port = text.partition(":")
    if len(words) not in (8, 32) or len(port) != 4:
        raise ValueError("not an address and a port")
    raw = b"".join(int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8))
    return ipaddress.ip_address(raw), int(port, 16)
