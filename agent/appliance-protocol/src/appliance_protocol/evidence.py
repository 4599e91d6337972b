"""Evidence bundles and the chain that makes a missing or altered one visible.

A bundle is canonical JSON (RFC 8785) signed by the device in a DSSE envelope. Bundles are numbered from 1 without
gaps, and each names the SHA-256 of the payload before it, so that dropping, reordering or rewriting one shows.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from appliance_protocol.clock import ClockReading
from appliance_protocol.envelope import Envelope, EnvelopeError, PayloadType, open_payload
from appliance_protocol.keys import PublicKey
from appliance_protocol.verdict import CheckResult
from appliance_protocol.wire import WireError, decode, is_canonical

GENESIS = "0" * 64
"""What the first bundle names as its predecessor."""


class EvidenceCause(enum.StrEnum):
    """Why a bundle was written."""

    CHANGE = "change"
    SCHEDULE = "schedule"
    ORDER = "order"
    START = "start"


@dataclass(frozen=True)
class Release:
    """The image a device runs: `id` and `version` from os-release, `digest` the verity root hash or closure hash."""

    id: str
    version: str
    digest: str = ""


@dataclass(frozen=True)
class EvidenceBundle:
    """What the device's checks said, signed, numbered and chained."""

    device_id: str
    sequence: int
    previous: str
    """SHA-256 (hexadecimal) of the previous bundle's payload, `GENESIS` for the first."""
    cause: EvidenceCause
    clock: ClockReading
    release: Release
    agent_version: str
    policy_digest: str
    """SHA-256 of the configuration the checks ran under."""
    schedule: str
    """The expected cadence as an ISO 8601 duration, such as `PT1H`: a longer silence is a gap."""
    results: tuple[CheckResult, ...]


class ChainFault(enum.StrEnum):
    """What can be wrong with a bundle's place in its chain."""

    UNREADABLE = "unreadable"
    BAD_SIGNATURE = "bad-signature"
    NOT_CANONICAL = "not-canonical"
    WRONG_DEVICE = "wrong-device"
    GAP = "gap"
    DUPLICATE = "duplicate"
    FORK = "fork"
    BROKEN_LINK = "broken-link"


@dataclass(frozen=True)
class ChainFinding:
    """One fault, at one sequence number (0 where even that could not be read)."""

    fault: ChainFault
    sequence: int
    detail: str


@dataclass(frozen=True)
class ChainHead:
    """The newest bundle known good: the next one must continue here."""

    sequence: int = 0
    digest: str = GENESIS


@dataclass(frozen=True)
class ChainReport:
    """The outcome of walking a chain."""

    head: ChainHead
    verified: int
    findings: tuple[ChainFinding, ...]

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def payload_digest(payload: bytes) -> str:
    """The hexadecimal SHA-256 by which the next bundle names this one."""
    return hashlib.sha256(payload).hexdigest()


def open_bundle(envelope: Envelope, device_id: str, keys: Iterable[PublicKey]) -> tuple[EvidenceBundle, str]:
    """Verify one bundle on its own: signature, canonical form, device. Returns it with its payload digest.

    Raises `ChainError`, which carries the finding.
    """
    try:
        payload = open_payload(envelope, PayloadType.EVIDENCE, keys)
    except EnvelopeError as error:
        raise ChainError(ChainFinding(ChainFault.BAD_SIGNATURE, 0, str(error))) from error
    try:
        bundle = decode(payload, EvidenceBundle)
    except WireError as error:
        raise ChainError(ChainFinding(ChainFault.UNREADABLE, 0, str(error))) from error
    if not is_canonical(payload):
        raise ChainError(ChainFinding(ChainFault.NOT_CANONICAL, bundle.sequence, "the payload is not RFC 8785 JSON"))
    if bundle.device_id != device_id:
        detail = f"bundle of {bundle.device_id[:80]!r} in the chain of {device_id!r}"
        raise ChainError(ChainFinding(ChainFault.WRONG_DEVICE, bundle.sequence, detail))
    return bundle, payload_digest(payload)


class ChainError(ValueError):
    """A bundle that cannot take its place in the chain."""

    def __init__(self, finding: ChainFinding) -> None:
        super().__init__(f"{finding.fault.value} at {finding.sequence}: {finding.detail}")
        self.finding = finding


def follow(head: ChainHead, bundle: EvidenceBundle, digest: str) -> ChainHead:
    """The head after `bundle`.

    Raises `ChainError` (gap, duplicate, fork, broken link) when the bundle does not continue `head`.
    """
    if bundle.sequence == head.sequence and digest == head.digest:
        raise ChainError(ChainFinding(ChainFault.DUPLICATE, bundle.sequence, "sent before, byte for byte"))
    if bundle.sequence <= head.sequence:
        raise ChainError(ChainFinding(ChainFault.FORK, bundle.sequence, f"the chain is at {head.sequence} already"))
    if bundle.sequence != head.sequence + 1:
        detail = f"expected {head.sequence + 1}, got {bundle.sequence}"
        raise ChainError(ChainFinding(ChainFault.GAP, bundle.sequence, detail))
    if bundle.previous != head.digest:
        detail = f"names {bundle.previous[:64]} as its predecessor, which is {head.digest}"
        raise ChainError(ChainFinding(ChainFault.BROKEN_LINK, bundle.sequence, detail))
    return ChainHead(bundle.sequence, digest)


def verify_chain(
    envelopes: Iterable[Envelope], device_id: str, keys: Iterable[PublicKey], head: ChainHead | None = None
) -> ChainReport:
    """Walk a chain in order and report every fault; it never raises for bad input.

    After a gap or a broken link the walk goes on from the bundle that caused it, so that one fault is reported once.
    """
    trusted = tuple(keys)
    head = head or ChainHead()
    verified = 0
    findings: list[ChainFinding] = []
    for envelope in envelopes:
        try:
            bundle, digest = open_bundle(envelope, device_id, trusted)
        except ChainError as error:
            findings.append(error.finding)
            continue
        try:
            head = follow(head, bundle, digest)
            verified += 1
        except ChainError as error:
            findings.append(error.finding)
            if error.finding.fault in (ChainFault.GAP, ChainFault.BROKEN_LINK):
                head = ChainHead(bundle.sequence, digest)
    return ChainReport(head, verified, tuple(findings))
