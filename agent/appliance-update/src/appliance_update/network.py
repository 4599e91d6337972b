"""Whether the network is to blame: a device that reaches nobody because nobody can be reached has no bad version."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import urllib.parse

from appliance_update.host import Host

TIMEOUT = 5.0
DOORS = (53, 443, 80)
"""Ports at which a gateway answers, be it with a refusal."""


def trouble(host: Host, repository: str) -> str:
    """What is wrong with the network; empty when it is fine.

    Fine is: a default route, names resolve, and the repository or the gateway answers over TCP.
    """
    gateway = default_gateway(host)
    if gateway is None:
        return "there is no default route"
    parts = urllib.parse.urlsplit(repository)
    name = parts.hostname or ""
    if name and not resolves(name):
        return f"the name {name} does not resolve"
    if name and answers(name, parts.port or (443 if parts.scheme == "https" else 80), refusal=False):
        return ""
    if gateway and any(answers(gateway, port, refusal=True) for port in DOORS):
        return ""
    return f"neither {name or 'the repository'} nor the gateway {gateway or ''} answers".replace("  ", " ")


def default_gateway(host: Host) -> str | None:
    """The IPv4 gateway, empty when there is a default route without one (or of IPv6), None when there is none."""
    found: str | None = None
    for line in _lines(host, "/proc/net/route")[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == "00000000" and fields[7] == "00000000":
            return socket.inet_ntoa(struct.pack("=I", int(fields[2], 16)))
    for line in _lines(host, "/proc/net/ipv6_route"):
        fields = line.split()
        if len(fields) > 9 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
            found = ""
    return found


def _lines(host: Host, path: str) -> list[str]:
    try:
        return host.path(path).read_text().splitlines()
    except OSError:
        return []


def resolves(name: str) -> bool:
    """Whether a name resolves, within the timeout: the resolver's own patience is minutes."""
    found: list[object] = []

    def ask() -> None:
        try:
            found.extend(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
        except OSError:
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return bool(found)


def answers(name: str, port: int, *, refusal: bool) -> bool:
    """Whether somebody answers at a TCP port; `refusal`: a refused connection is an answer too."""
    try:
        socket.create_connection((name, port), timeout=TIMEOUT).close()
    except OSError as error:
        return refusal and error.errno == errno.ECONNREFUSED
    return True
