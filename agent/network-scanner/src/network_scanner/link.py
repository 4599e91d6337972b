"""The network interface: who we are on it, and the raw socket that sends on it. Needs CAP_NET_RAW and nothing more."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from network_scanner.addresses import Network4, format_mac

SIOCGIFFLAGS, SIOCGIFADDR, SIOCGIFNETMASK, SIOCGIFHWADDR = 0x8913, 0x8915, 0x891B, 0x8927
IFF_UP, IFF_RUNNING, IFF_LOOPBACK = 0x1, 0x40, 0x8
SO_BINDTODEVICE = 25


class LinkError(RuntimeError):
    """An interface that is not there, not up or not ours to use; the message says which and what to do."""


@dataclass(frozen=True)
class Link:
    """An interface and our addresses on it. `gateway` is the default route's next hop, empty when there is none."""

    name: str
    index: int
    mac: str
    ip: str
    network: Network4
    gateway: str = ""
    ipv6: str = ""
    """Our link-local address, empty without IPv6."""


def default_interface() -> str:
    """The interface of the IPv4 default route, or an empty string."""
    for name, destination, _, mask in _routes():
        if destination == mask == 0:
            return name
    return ""


def interfaces() -> list[str]:
    """Interfaces that are up and not the loopback."""
    return [name for _, name in socket.if_nameindex() if _flags(name) & (IFF_UP | IFF_LOOPBACK) == IFF_UP]


def is_running(name: str) -> bool:
    """Whether the interface is up and has a carrier."""
    try:
        return _flags(name) & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING
    except OSError:
        return False


def open_link(name: str) -> Link:
    """Read everything about an interface. Raises `LinkError`."""
    try:
        index = socket.if_nametoindex(name)
        flags = _flags(name)
        mac = format_mac(_ioctl(name, SIOCGIFHWADDR)[18:24])
    except OSError as error:
        known = ", ".join(interfaces()) or "none is up"
        raise LinkError(f"interface {name!r}: {error.strerror}; interfaces that are up: {known}") from error
    if not flags & IFF_UP:
        raise LinkError(f"interface {name} is down; bring it up (ip link set {name} up) or plug in its cable")
    try:
        ip = socket.inet_ntoa(_ioctl(name, SIOCGIFADDR)[20:24])
        mask = socket.inet_ntoa(_ioctl(name, SIOCGIFNETMASK)[20:24])
    except OSError as error:
        raise LinkError(f"interface {name} has no IPv4 address yet; check DHCP or give it one") from error
    network = ipaddress.IPv4Network(f"{ip}/{mask}", strict=False)
    return Link(name, index, mac, ip, network, _gateway(name), _link_local(name))


def send_socket(link: Link) -> socket.socket:
    """A socket that sends whole frames and receives none. Raises `LinkError` without CAP_NET_RAW."""
    try:
        # Protocol 0: the kernel queues nothing on it.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        sock.bind((link.name, 0))
    except PermissionError as error:
        raise no_permission() from error
    except OSError as error:
        raise LinkError(f"interface {link.name}: {error.strerror}") from error
    return sock


def no_permission() -> LinkError:
    """The error for a process without the one capability this program needs."""
    return LinkError("no permission for raw packets; run as root or with CAP_NET_RAW (the service's unit grants it)")


def bind_socket(sock: socket.socket, link: Link) -> None:
    """Tie an IPv4 socket to the interface and our address on it. Raises `OSError`."""
    with contextlib.suppress(PermissionError):  # older kernels want a capability for what the address does as well
        sock.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, link.name.encode() + b"\0")
    sock.bind((link.ip, 0))


def _ioctl(name: str, request: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, request, struct.pack("256s", name.encode()[:15]))


def _flags(name: str) -> int:
    return int(struct.unpack("H", _ioctl(name, SIOCGIFFLAGS)[16:18])[0])


def _routes() -> list[tuple[str, int, str, int]]:
    """Interface, destination, gateway and mask of the IPv4 routes."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/net/route").read_text().splitlines()[1:]:
            word = line.split()
            gateway = socket.inet_ntoa(struct.pack("=I", int(word[2], 16)))
            found.append((word[0], int(word[1], 16), gateway, int(word[7], 16)))
    return found


def _gateway(name: str) -> str:
    routes = (gateway for device, to, gateway, mask in _routes() if device == name and to == mask == 0)
    return next((gateway for gateway in routes if gateway != "0.0.0.0"), "")  # noqa: S104 - no bind


def _link_local(name: str) -> str:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            word = line.split()
            if word[5] == name and word[3] == "20":
                return str(ipaddress.IPv6Address(bytes.fromhex(word[0])))
    return ""
