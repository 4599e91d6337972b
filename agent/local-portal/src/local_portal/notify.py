"""Talking to systemd: readiness, watchdog, and the sockets it opened for us (sd_notify(3), sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket

_FIRST = 3


def notify(message: str) -> None:
    """Tell the service manager something; without one, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.sendall(message.encode())
        except OSError:
            return  # the manager is restarting; the next watchdog message reaches it


def watchdog_seconds() -> float | None:
    """How often the watchdog must be fed at the latest; None when nobody watches this process."""
    pid, microseconds = os.environ.get("WATCHDOG_PID", ""), os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000


def listening_sockets() -> dict[str, list[socket.socket]]:
    """The sockets handed over, by the name of their FileDescriptorName=; empty when there are none."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = os.environ.get("LISTEN_FDS", "")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    for place in range(int(count) if count.isdigit() else 0):
        name = names[place] if place < len(names) and names[place] else "unknown"
        handed = socket.socket(fileno=_FIRST + place)
        handed.set_inheritable(False)
        found.setdefault(name, []).append(handed)
    return found
