"""What the network scanner knows of the clinic's devices, as it tells the portal and Central Command."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class DeviceClass(enum.StrEnum):
    """What a device is; a classification always comes with its reasons."""

    WORKSTATION = "workstation"
    SERVER = "server"
    PRINTER = "printer"
    NETWORK = "network"
    CAMERA = "camera"
    PHONE = "phone"
    MEDICAL = "medical"
    IOT = "iot"
    UNKNOWN = "unknown"


class ScanPolicy(enum.StrEnum):
    """How far the scanner may go with a device: paced connects, only ARP and listening, or nothing at all."""

    STANDARD = "standard"
    LIMITED = "limited"
    EXCLUDED = "excluded"


class Presence(enum.StrEnum):
    """Whether a device is there; it takes several missed sweeps to be gone."""

    UP = "up"
    SLEEPING = "sleeping"
    AWAY = "away"
    GONE = "gone"


@dataclass(frozen=True)
class Service:
    """An open port. `protocol` is tcp or udp; `name` is the registered or observed service name."""

    port: int
    protocol: str
    name: str


@dataclass(frozen=True)
class Device:
    """One thing on the network, whatever addresses it has had. Times are seconds since the epoch (UTC)."""

    id: str
    name: str
    device_class: DeviceClass
    confidence: float
    reasons: tuple[str, ...]
    vendor: str
    policy: ScanPolicy
    presence: Presence
    first_seen: float
    last_seen: float
    mac_addresses: tuple[str, ...]
    """Lower case, colons."""
    ip_addresses: tuple[str, ...]
    services: tuple[Service, ...] = ()
    randomised_mac: bool = False
    class_locked: bool = False
    """A person set the class; a scan never changes it."""


@dataclass(frozen=True)
class DeviceEvent:
    """Something that happened to a device: new address, new service, class changed, policy set."""

    at: float
    kind: str
    detail: str


@dataclass(frozen=True)
class ScanSummary:
    """One scan, finished or running."""

    id: str
    started_at: float
    finished_at: float | None
    network: str
    hosts_up: int
    packets_sent: int
    error: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    """Devices by class."""


@dataclass(frozen=True)
class ScannerStatus:
    """How the network scanner is doing."""

    version: str
    started_at: float
    interface: str = ""
    network: str = ""
    device_count: int = 0
    scanning: bool = False
    last_scan_at: float | None = None
    next_scan_at: float | None = None
    problems: tuple[str, ...] = ()
    paused: bool = False
    """A person has told the scanner to send nothing; listening goes on."""
    paused_until: float | None = None
    """When the pause ends by itself; None while not paused, or paused until a person resumes."""
