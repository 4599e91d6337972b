"""Everything together: a clinic, Central Command, an update repository, and appliances that belong there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import time
from pathlib import Path
from typing import Any

from t640 import relay
from t640.central import Central
from t640.clinic import network
from t640.clinic.site import Clinic
from t640.clinic.truth import HOSTS, Host
from t640.errors import GuestError, GuestTimeout
from t640.hardware import Hardware
from t640.machine import PATIENCE_S, Machine
from t640.releases import Updates
from t640.session import Session


@dataclasses.dataclass
class Scene:
    """What the steps of a scenario share. `versions` are a good release, its good and its bad successor."""

    world: World
    machine: Machine
    versions: tuple[str, str, str]
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


SERVICES = ("compliance-agent.service", "network-scanner.service", "local-portal.service")
CREDENTIAL = "compliance-agent.enrolment"


class World:
    """The surroundings of an appliance, until the session ends."""

    def __init__(self, session: Session, *, hosts: tuple[Host, ...] = HOSTS, checkin_interval: int = 60) -> None:
        self.session = session
        self.clinic = Clinic(session, hosts)
        self.central = Central(session, self.clinic.network.cloud, checkin_interval)
        self.updates = Updates(session, self.clinic.network.cloud)

    def appliance(self, base_disk: Path, *, enrol: bool = True, hardware: Hardware | None = None) -> Machine:
        """A new appliance at the clinic, switched off, with an enrolment code as its installer would leave it."""
        chosen = dataclasses.replace(hardware or Hardware(), tap=network.TAP)
        if enrol:
            credentials = chosen.credentials | {CREDENTIAL: self.central.enrolment_credential()}
            chosen = dataclasses.replace(chosen, credentials=credentials)
        number = len(list(self.session.work.glob("appliance-*")))
        return Machine(self.session.work / f"appliance-{number}", base_disk, chosen, self.clinic.network.clinic)

    def open_doors(self) -> tuple[int, int]:
        """Portal and Central Command on this machine's loopback; returns both ports."""
        namespaces = self.clinic.network
        portal = (network.APPLIANCE_ADDRESS, 443)
        central = (network.CLOUD_ADDRESS, 8443)
        first = relay.open_relay(self.session, "relay-portal", namespaces.clinic, 8443, portal)
        second = relay.open_relay(self.session, "relay-central", namespaces.cloud, 9443, central)
        return first.port, second.port

    def wait_for_device(self, timeout: float = PATIENCE_S) -> dict[str, Any]:
        """Wait until the appliance has enrolled and checked in. Raises `GuestTimeout`."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            devices = self.central.devices()
            if devices and devices[0].get("last_seen_at"):
                return self.central.device()
            time.sleep(1.0)
        raise GuestTimeout(f"No appliance checked in at Central Command within {timeout:.0f} s.")


def inventory(machine: Machine) -> dict[str, str]:
    """The scanner's inventory inside the machine: MAC address → class."""
    return {mac: device["device_class"] for device in devices(machine) for mac in device["mac_addresses"]}


def devices(machine: Machine) -> list[dict[str, Any]]:
    """Every device the scanner inside knows."""
    return list(api(machine, "network-scanner", "/v1/devices"))


def scanner_status(machine: Machine) -> dict[str, Any]:
    """What the network scanner inside says of itself."""
    return dict(api(machine, "network-scanner", "/v1/status"))


def agent_status(machine: Machine) -> dict[str, Any]:
    """What the compliance agent inside says of itself."""
    return dict(api(machine, "compliance-agent", "/v1/status"))


# The socket module and nothing else: under emulation every import costs.
_ASK = """import socket, sys
link = socket.socket(socket.AF_UNIX); link.settimeout(120); link.connect(sys.argv[1])
link.sendall(sys.argv[2].encode())
while data := link.recv(65536): sys.stdout.buffer.write(data)
"""


def api(machine: Machine, service: str, path: str, *, method: str = "GET", body: str = "") -> Any:
    """Ask one of the appliance's local APIs and decode the answer. Raises `GuestError` when it refuses."""
    head = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}"
    command = ["python3", "-ISc", _ASK, f"/run/{service}/api.sock", request]
    answer = machine.succeed(shlex.join(command))
    first, _, rest = answer.partition("\r\n")
    content = rest.partition("\r\n\r\n")[2]
    if int([*first.split(), "", "500"][1]) >= 400:
        raise GuestError(f"{service} answered {method} {path} with {first!r}: {content[:500]}")
    return json.loads(content)


def api_quietly(machine: Machine, socket: str, path: str, *, method: str = "GET") -> None:
    """The same when the answer does not matter, nor whether there is one."""
    with contextlib.suppress(GuestError, ValueError):
        api(machine, socket, path, method=method)
