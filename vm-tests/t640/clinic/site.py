"""The whole clinic as one object: every host plugged in and answering, and the line to the cloud."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from t640.capture import Capture
from t640.clinic import daemons, network
from t640.clinic.truth import HOSTS, Host
from t640.errors import RigError
from t640.hardware import Hardware
from t640.paths import PACKAGE
from t640.processes import Process, command_in, wait_for
from t640.session import Session


@dataclass
class Plugged:
    """A host in its namespace. `address` changes when it takes a new lease."""

    host: Host
    namespace: str
    address: str
    service: Process | None = None


class Clinic:
    """A clinic in namespaces of a session; the session tears it down."""

    def __init__(self, session: Session, hosts: tuple[Host, ...] = HOSTS) -> None:
        self.session = session
        self.network = network.create(session)
        network.start_names(session, self.network)
        network.start_time(session, self.network)
        network.start_dhcp(session, self.network, Hardware().mac)
        self.hosts = {host.name: self._plug(host) for host in hosts}
        self._wait_for_services()

    def _plug(self, host: Host) -> Plugged:
        plugged = Plugged(host, network.add_host(self.session, self.network, host), host.address)
        if not host.address:
            self._lease(plugged, "")
        for daemon in host.daemons:
            daemons.start(self.session, plugged.namespace, host, daemon)
        if host.services:
            plugged.service = self._serve(plugged)
        return plugged

    def _serve(self, plugged: Plugged) -> Process:
        host = plugged.host
        specification = {"address": plugged.address, "hostname": host.hostname or host.name, "services": host.services,
                         "record": str(self.record(host.name))}  # fmt: skip
        argv = [sys.executable, "-m", "t640.clinic.services", json.dumps(specification)]
        return self.session.start(f"{host.name}-services", argv, namespace=plugged.namespace, env=_environment())

    def _wait_for_services(self) -> None:
        for plugged in self.hosts.values():
            service = plugged.service
            if service is None:
                continue

            def ready(service: Process = service) -> bool:
                return "ready" in service.tail() or not service.running

            wait_for(ready, timeout=60, what=f"The start of {plugged.host.name}")
            service.require_running(plugged.host.name)

    def _lease(self, plugged: Plugged, wanted: str) -> None:
        host = plugged.host
        argv = [sys.executable, "-m", "t640.clinic.dhcp", "eth0", host.mac, host.hostname, host.dhcp_vendor,
                wanted, plugged.address]  # fmt: skip
        command = command_in(plugged.namespace, argv)
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=60)
        if done.returncode != 0:
            raise RigError(f"{host.name} got no address:\n{done.stderr[-1500:]}")
        plugged.address = done.stdout.strip()

    def move(self, name: str, address: str) -> str:
        """Let a DHCP host come back with another address; returns what it was given."""
        plugged = self.hosts[name]
        self._lease(plugged, address)
        return plugged.address

    def record(self, name: str) -> Path:
        """Where a recording host notes what it received."""
        return self.session.work / f"{name}.received"

    def received(self, name: str) -> list[tuple[int, bytes]]:
        """What a recording host received so far: port and bytes."""
        path = self.record(name)
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(port), bytes.fromhex(data)) for port, data in (line.split(" ", 1) for line in lines)]

    def uplink_down(self) -> None:
        """Cut the clinic off from the rest of the world."""
        network.set_uplink(self.network.clinic, up=False)

    def uplink_up(self) -> None:
        """Connect the clinic again."""
        network.set_uplink(self.network.clinic, up=True)

    def capture(self, name: str, interface: str = network.TAP) -> Capture:
        """Record every packet to and from the appliance (or on another interface of the gateway) from now on."""
        return Capture(self.session, self.network.clinic, interface, self.session.work / f"{name}.pcap")

    def run(self, argv: list[str], *, host: str = "", timeout: float = 60) -> str:
        """Run a program on a host of the clinic (default: the gateway); returns its output. Raises `RigError`."""
        namespace = self.hosts[host].namespace if host else self.network.clinic
        command = command_in(namespace, argv)
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=_environment())
        if done.returncode != 0:
            raise RigError(f"{' '.join(argv)} failed with {done.returncode}: {done.stderr.strip()}")
        return done.stdout


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PACKAGE.parent), "PATH": "/usr/sbin:/sbin:" + os.environ.get("PATH", "")}
