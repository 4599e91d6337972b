"""When a bundle is written: at the start, when a verdict changes, by the schedule, and by order."""

from __future__ import annotations

import asyncio
import dataclasses

from appliance_protocol.clock import ClockReading
from appliance_protocol.envelope import PayloadType, seal
from appliance_protocol.evidence import ChainHead, EvidenceBundle, EvidenceCause
from appliance_protocol.keys import PrivateKey
from appliance_protocol.local_models import EvidenceEntry
from compliance_agent import __version__
from compliance_agent.checks.base import Clock
from compliance_agent.config import Config
from compliance_agent.ledger import Ledger, Sealed
from compliance_agent.offload import on_disk
from compliance_agent.state import State

MIB = 1 << 20


class EvidenceWriter:
    """Writes bundles of the latest verdicts into the ledger; what could not be written is wanted until it is."""

    def __init__(self, config: Config, state: State, ledger: Ledger, clock: Clock) -> None:
        self._config = config
        self._state = state
        self._ledger = ledger
        self._clock = clock
        self._lock = asyncio.Lock()
        self._wanted: EvidenceCause | None = None
        self._written: float | None = None
        self._said: object = None

    def begin(self) -> None:
        """The next bundle is the first of this run (or of a new enrolment)."""
        self._written, self._wanted = None, None

    def due(self) -> EvidenceCause | None:
        """Why a bundle is to be written now; None when none is."""
        if self._state.enrolment is None or self._state.passes == 0:
            return None
        if self._wanted is not None:
            return self._wanted
        if self._written is None:
            return EvidenceCause.START
        age = self._clock.read().monotonic - self._written
        if age >= self._config.evidence.interval:
            return EvidenceCause.SCHEDULE
        full = self._state.pending_bytes > self._config.evidence.unsent_limit_mib * MIB
        if self._what_matters() != self._said and age >= self._config.evidence.change_spacing and not full:
            return EvidenceCause.CHANGE
        return None

    async def write_due(self, key: PrivateKey) -> EvidenceEntry | None:
        """Write a bundle if one is due. Raises `StoreError`; the bundle is then still due."""
        cause = self.due()
        if cause is None:
            return None
        self._wanted = cause
        return await self.write(cause, key)

    async def write(self, cause: EvidenceCause, key: PrivateKey) -> EvidenceEntry:
        """Write a bundle now. Raises `StoreError` and `RuntimeError` before the enrolment."""
        async with self._lock:
            enrolment = self._state.enrolment
            if enrolment is None:
                raise RuntimeError("the device is not enrolled, its evidence has no chain to go into yet")
            said = self._what_matters()
            draft = self._draft(enrolment.device_id, cause, self._clock.read())

            def seal_onto(head: ChainHead) -> Sealed:
                return sign(dataclasses.replace(draft, sequence=head.sequence + 1, previous=head.digest), key)

            entry = await on_disk(self._ledger.append, enrolment.device_id, seal_onto)
            self._said, self._wanted = said, None
            self._written = draft.clock.monotonic
            self._state.evidence_head = ChainHead(entry.sequence, entry.digest)
            self._state.evidence_written_at = entry.written_at
            self._state.pending += 1
            self._state.pending_bytes += entry.size
            if self._state.pending_since is None:
                self._state.pending_since = entry.written_at
        return entry

    def _what_matters(self) -> object:
        """What makes a change: verdicts, release, policy and the clock's state; not the words of a reason."""
        verdicts = tuple((result.check_id, result.verdict) for result in self._state.results())
        clock = self._clock.read().state
        return verdicts, self._state.release, self._config.policy_digest, clock

    def _draft(self, device_id: str, cause: EvidenceCause, clock: ClockReading) -> EvidenceBundle:
        return EvidenceBundle(
            device_id=device_id,
            sequence=0,
            previous="",
            cause=cause,
            clock=clock,
            release=self._state.release,
            agent_version=__version__,
            policy_digest=self._config.policy_digest,
            schedule=f"PT{self._config.evidence.interval}S",
            results=self._state.results(),
        )


def sign(bundle: EvidenceBundle, key: PrivateKey) -> Sealed:
    """The bundle in its envelope."""
    return Sealed(bundle, seal(bundle, PayloadType.EVIDENCE, key))


def sign_again(bundle: EvidenceBundle, head: ChainHead, key: PrivateKey) -> Sealed:
    """A bundle at a new place in the chain; what it says, and when it was said, stay."""
    return sign(dataclasses.replace(bundle, sequence=head.sequence + 1, previous=head.digest), key)
