"""Listening sockets for the collector: which program and which unit holds each, which only root can see."""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path

from compliance_agent.privileged import Listener

TABLES = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
"""/proc/net tables and the state of a socket that waits for others: LISTEN, or unconnected."""
MAX_LISTENERS = 1000


def read_listeners(root: Path = Path("/")) -> tuple[Listener, ...]:
    """Every listening socket of the box's network namespace. Raises `OSError` when /proc/net cannot be read."""
    sockets: dict[str, Listener] = {}
    for protocol, state in TABLES.items():
        table = root / "proc/net" / protocol
        if protocol.endswith("6") and not table.exists():
            continue  # the kernel has no IPv6
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if len(fields) < 10 or fields[3] != state or not _unconnected(fields[2]):
                continue
            address, port = _endpoint(fields[1])
            sockets[fields[9]] = Listener(protocol, address, port, int(fields[7]))
    owners = _owners(root, set(sockets))
    found = [_with_owner(listener, owners.get(inode)) for inode, listener in sockets.items()]
    return tuple(sorted(found, key=lambda item: (item.protocol, item.port, item.address))[:MAX_LISTENERS])


def _unconnected(remote: str) -> bool:
    return set(remote.partition(":")[0]) == {"0"}


def _endpoint(text: str) -> tuple[str, int]:
    """The kernel writes addresses as 32-bit words in the byte order of the machine."""
    words, _, port = text.partition(":")
    raw = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
    return str(ipaddress.ip_address(raw)), int(port, 16)


def _with_owner(listener: Listener, owner: tuple[str, str] | None) -> Listener:
    program, unit = owner or ("", "")
    return Listener(listener.protocol, listener.address, listener.port, listener.uid, program, unit)


def _owners(root: Path, inodes: set[str]) -> dict[str, tuple[str, str]]:
    """Program and unit by socket inode; a process that ends meanwhile is passed over."""
    owners: dict[str, tuple[str, str]] = {}
    for process in (root / "proc").iterdir():
        if not process.name.isdigit():
            continue
        held = _sockets_of(process) & inodes
        if held:
            owner = _program(process), _unit(process)
            # systemd holds the sockets it activates services with; the service's own name says more.
            owners.update((inode, owner) for inode in held if inode not in owners or owner[0] != "systemd")
    return owners


def _sockets_of(process: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def _program(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()[:64]
    except OSError:
        return ""


def _unit(process: Path) -> str:
    try:
        path = (process / "cgroup").read_text(errors="replace").splitlines()[0].rpartition(":")[2]
    except (OSError, IndexError):
        return ""
    units = [part for part in path.split("/") if part.endswith((".service", ".scope", ".socket"))]
    return units[-1][:128] if units else ""
