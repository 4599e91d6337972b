"""What the appliance's services answer on their unix sockets, beyond what they share with Central Command."""

from __future__ import annotations

from dataclasses import dataclass, field

from appliance_protocol.clock import ClockState
from appliance_protocol.device_api import QueueStatus, UpdateStatus
from appliance_protocol.evidence import EvidenceCause, Release
from appliance_protocol.inventory import ScannerStatus as ScannerStatus
from appliance_protocol.verdict import Score


@dataclass(frozen=True)
class AgentStatus:
    """How the compliance agent is doing. Times are seconds since the epoch (UTC)."""

    version: str
    release: Release
    slot: str
    enrolled: bool
    clock: ClockState
    score: Score
    queue: QueueStatus
    started_at: float
    checks_at: float | None = None
    """When the checks last ran through."""
    conforming_since: float | None = None
    """Since when every counted check conforms; None when one does not (or none ran)."""
    device_id: str = ""
    site_id: str = ""
    site_name: str = ""
    central_url: str = ""
    last_checkin_at: float | None = None
    last_checkin_error: str = ""
    evidence_sequence: int = 0
    evidence_written_at: float | None = None
    update: UpdateStatus = field(default_factory=UpdateStatus)
    public_key: str = ""
    """The device's Ed25519 public key in base64, so that the portal can verify the evidence it shows."""
    problems: tuple[str, ...] = ()
    """What is wrong with the agent itself (disk full, key unreadable …), each a sentence with what to do."""


@dataclass(frozen=True)
class EvidenceEntry:
    """One bundle in the device's own store."""

    sequence: int
    written_at: float
    cause: EvidenceCause
    digest: str
    size: int
    clock: ClockState
    verdict_counts: dict[str, int] = field(default_factory=dict)
    sent_at: float | None = None


@dataclass(frozen=True)
class ScorePoint:
    """The score at one time."""

    at: float
    conforming: int
    counted: int
