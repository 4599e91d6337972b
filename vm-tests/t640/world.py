"""Everything together: a clinic, Central Command, an update repository, and appliances that belong there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from t640 import relay
from t640.central import Central
from t640.clinic import network
from t640.clinic.site import Clinic
from t640.clinic.truth import HOSTS, Host
from t640.errors import GuestError, GuestTimeout, RigError
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
    devices = json.loads(machine.succeed("network-scanner devices --json"))
    return {mac: device["device_class"] for device in devices for mac in device["mac_addresses"]}


def agent_status(machine: Machine) -> dict[str, Any]:
    """What the compliance agent inside says of itself. Raises `RigError` when that is no JSON."""
    text = machine.execute("compliance-agent status --json")[1]
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise RigError(f"compliance-agent status --json said: {text[:300]!r}") from error


def api(machine: Machine, socket: str, path: str, *, method: str = "GET", body: str = "") -> Any:
    """Ask one of the appliance's local APIs (`/run/<service>/api.sock`) and decode the answer."""
    script = (
        "import http.client, socket, sys\n"
        "class Unix(http.client.HTTPConnection):\n"
        "    def connect(self):\n"
        "        self.sock = socket.socket(socket.AF_UNIX); self.sock.connect(sys.argv[1])\n"
        "link = Unix('localhost', timeout=60)\n"
        "link.request(sys.argv[2], sys.argv[3], sys.argv[4] or None, {'Content-Type': 'application/json'})\n"
        "answer = link.getresponse(); print(answer.read().decode()); sys.exit(answer.status >= 400)\n"
    )
    arguments = " ".join(_quoted(item) for item in (f"/run/{socket}/api.sock", method, path, body))
    return json.loads(machine.succeed(f"python3 -c {_quoted(script)} {arguments}"))


def api_quietly(machine: Machine, socket: str, path: str, *, method: str = "GET") -> None:
    """The same when the answer does not matter, nor whether there is one."""
    with contextlib.suppress(GuestError, ValueError):
        api(machine, socket, path, method=method)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
