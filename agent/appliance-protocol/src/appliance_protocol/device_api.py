"""The requests a device makes to Central Command and the replies it gets.

Every request is a POST of a DSSE envelope signed by the device's key; every reply is a DSSE envelope
(`PayloadType.REPLY`) signed by the server's key, so that a broken TLS inspection box in a clinic can at worst delay.

| path                    | payload type      | payload          | reply           |
|-------------------------|-------------------|------------------|-----------------|
| /device/v1/enrol        | ENROLMENT         | EnrolmentRequest | EnrolmentReply  |
| /device/v1/checkin      | CHECKIN           | CheckIn          | CheckInReply    |
| /device/v1/evidence     | EVIDENCE_UPLOAD   | EvidenceUpload   | EvidenceReceipt |
| /device/v1/order-result | ORDER_RESULT      | OrderResult      | Acknowledgement |

Errors are RFC 9457 problem details (`application/problem+json`, unsigned), read as `Problem`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from appliance_protocol.clock import ClockReading
from appliance_protocol.envelope import Envelope
from appliance_protocol.evidence import ChainHead, Release
from appliance_protocol.inventory import ScanSummary
from appliance_protocol.verdict import Score

ENROL = "/device/v1/enrol"
CHECKIN = "/device/v1/checkin"
EVIDENCE = "/device/v1/evidence"
ORDER_RESULT = "/device/v1/order-result"

MAX_BUNDLES_PER_UPLOAD = 50
"""Bundles in one evidence upload."""


@dataclass(frozen=True)
class Hardware:
    """What the machine says of itself (SMBIOS). Free text; never trusted for anything but display."""

    vendor: str = ""
    product: str = ""
    serial: str = ""


@dataclass(frozen=True)
class EnrolmentRequest:
    """A device that wants to belong to a site. Signed by the key it shows: proof that it holds it."""

    code: str
    """One-time code, 16 characters of Crockford's base 32 in groups of four; compared without case and hyphens."""
    public_key: str
    hostname: str
    release: Release
    agent_version: str
    hardware: Hardware = field(default_factory=Hardware)
    mac_addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnrolmentReply:
    """Who the device is from now on. `server_keys` sign orders and replies (base64 Ed25519 public keys)."""

    device_id: str
    site_id: str
    site_name: str
    server_keys: tuple[str, ...]
    server_time: float
    checkin_interval: int = 60
    """Seconds between check-ins."""


@dataclass(frozen=True)
class UpdateStatus:
    """What the appliance updater's status file says; the agent only passes it on."""

    state: str = "unknown"
    version: str = ""
    """The version being installed or tried; empty when idle."""
    detail: str = ""
    previous_version: str = ""


@dataclass(frozen=True)
class QueueStatus:
    """The evidence that Central Command has not yet taken."""

    pending: int
    oldest_at: float | None = None


@dataclass(frozen=True)
class CheckIn:
    """What a device says once a minute. `number` grows with every check-in of a device and is never reused."""

    device_id: str
    number: int
    clock: ClockReading
    uptime: float
    hostname: str
    release: Release
    slot: str
    """The booted slot: `a`, `b`, or the reason why it cannot be told."""
    agent_version: str
    score: Score
    queue: QueueStatus
    update: UpdateStatus = field(default_factory=UpdateStatus)
    evidence_head: ChainHead = field(default_factory=ChainHead)
    verdicts: dict[str, str] = field(default_factory=dict)
    """Check id to verdict, the latest of each."""
    scan: ScanSummary | None = None
    ip_addresses: tuple[str, ...] = ()
    orders_in_progress: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """What is wrong with the agent itself (disk full, a wrong value in its configuration …), each a sentence."""


@dataclass(frozen=True)
class CheckInReply:
    """What the server answers. `answers` is the check-in's number, so that an old reply cannot be replayed."""

    device_id: str
    answers: int
    server_time: float
    orders: tuple[Envelope, ...] = ()
    assigned_version: str = ""
    """The release this device should run; empty when none is assigned."""
    evidence_head: ChainHead = field(default_factory=ChainHead)
    """The newest bundle the server has: what comes after it is to be sent."""
    checkin_interval: int = 60


@dataclass(frozen=True)
class EvidenceUpload:
    """Bundles in order of sequence, oldest first, each an envelope of its own."""

    device_id: str
    bundles: tuple[Envelope, ...]


@dataclass(frozen=True)
class EvidenceReceipt:
    """How far the server's chain reaches now, and what it refused."""

    device_id: str
    head: ChainHead
    accepted: int
    duplicates: int = 0
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Acknowledgement:
    """The server has taken it. `duplicate` when it had it already."""

    device_id: str
    duplicate: bool = False


@dataclass(frozen=True)
class Problem:
    """RFC 9457 problem details."""

    title: str = "unknown problem"
    status: int = 0
    detail: str = ""
    type: str = "about:blank"
