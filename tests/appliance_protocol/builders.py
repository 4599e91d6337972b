"""Builders shared by the protocol tests: a device with a fixed key, and chains of evidence it signed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from appliance_protocol.clock import ClockReading, ClockState
from appliance_protocol.envelope import Envelope, PayloadType, seal
from appliance_protocol.evidence import GENESIS, EvidenceBundle, EvidenceCause, Release, payload_digest
from appliance_protocol.keys import PrivateKey
from appliance_protocol.verdict import CheckResult, Citation, Coverage, Framework, Verdict
from appliance_protocol.wire import canonical

DEVICE = "dev_01J00000000000000000000000"


def a_key(name: str) -> PrivateKey:
    """A key that is the same in every run."""
    return PrivateKey(hashlib.sha256(name.encode()).digest())


def a_result(verdict: Verdict = Verdict.PASS, *, at: float = 1_800_000_000.0, lifetime: float = 3600.0) -> CheckResult:
    return CheckResult(
        check_id="state_disk_space",
        title="Space on the state disk",
        verdict=verdict,
        reason="61 % used",
        checked_at=at,
        expires_at=at + lifetime,
        source="statvfs /var",
        input_digest="sha256:" + "0" * 64,
        citations=(
            Citation(Framework.HIPAA, "164.308(a)(7)(ii)(A)", "Data backup plan", Coverage.PARTIAL, required=True),
        ),
        does_not_prove="That what is written can be restored.",
    )


@dataclass
class Signer:
    """A device that writes bundles, one after the other."""

    key: PrivateKey = field(default_factory=lambda: a_key("device"))
    sequence: int = 0
    previous: str = GENESIS

    def write(self, verdict: Verdict = Verdict.PASS) -> Envelope:
        self.sequence += 1
        bundle = EvidenceBundle(
            device_id=DEVICE,
            sequence=self.sequence,
            previous=self.previous,
            cause=EvidenceCause.SCHEDULE,
            clock=ClockReading(1_800_000_000.0 + self.sequence, float(self.sequence), "boot", ClockState.SYNCHRONISED),
            release=Release("t640", "2026.11.0"),
            agent_version="2026.11.0",
            policy_digest="0" * 64,
            schedule="PT1H",
            results=(a_result(verdict),),
        )
        self.previous = payload_digest(canonical(bundle))
        return seal(bundle, PayloadType.EVIDENCE, self.key)
