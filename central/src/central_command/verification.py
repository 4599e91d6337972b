"""A device's stored chain, walked again from the first bundle: what an auditor runs, with the outcome as exit code."""

from __future__ import annotations

import enum
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from appliance_protocol.envelope import Envelope, EnvelopeError, parse
from appliance_protocol.evidence import ChainError, ChainFault, ChainHead, follow, open_bundle
from appliance_protocol.keys import KeyFormatError, PublicKey
from central_command import intake
from central_command.checkins import last_report
from central_command.tables import devices

MAX_FINDINGS = 100


class Outcome(enum.IntEnum):
    """What became of a verification; the value is the exit code."""

    OK = 0
    TAMPERED = 1
    INCOMPLETE = 2
    UNVERIFIABLE = 3


@dataclass
class Verification:
    """The outcome, and every finding as a sentence (the first hundred)."""

    device_id: str
    outcome: Outcome
    bundles: int = 0
    head: ChainHead = field(default_factory=ChainHead)
    findings: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, sentence: str) -> None:
        """Note a finding. Tampered outweighs incomplete, which outweighs ok."""
        if self.outcome is Outcome.OK or outcome is Outcome.TAMPERED:
            self.outcome = outcome
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(sentence)


async def verify(connection: AsyncConnection, device_id: str) -> Verification:
    """Check every signature and link, the columns beside them, and that the chain ends where it should."""
    result = Verification(device_id, Outcome.OK)
    device = (await connection.execute(sa.select(devices).where(devices.c.id == device_id))).mappings().first()
    if device is None:
        return Verification(device_id, Outcome.UNVERIFIABLE, findings=["there is no such device"])
    try:
        key = PublicKey.from_text(device["public_key"])
    except KeyFormatError as error:
        return Verification(device_id, Outcome.UNVERIFIABLE, findings=[str(error)])
    async for row in intake.chain(connection, device_id):
        _step(result, row, key)
        result.bundles += 1
    _compare_heads(result, device)
    if not result.bundles and result.outcome is Outcome.OK:
        result.add(Outcome.UNVERIFIABLE, "there is no evidence to verify")
    return result


def _step(result: Verification, row: RowMapping, key: PublicKey) -> None:
    try:
        envelope = parse(row["envelope"].encode())
        bundle, digest = open_bundle(envelope, result.device_id, [key])
    except (EnvelopeError, ChainError) as error:
        result.add(Outcome.TAMPERED, f"bundle {row['sequence']}: {error}")
        result.head = ChainHead(row["sequence"], row["digest"])
        return
    if (bundle.sequence, digest, bundle.previous) != (row["sequence"], row["digest"], row["previous"]):
        result.add(Outcome.TAMPERED, f"bundle {row['sequence']}: the row does not say what the signed bundle says")
    try:
        result.head = follow(result.head, bundle, digest)
    except ChainError as error:
        gap = error.finding.fault is ChainFault.GAP
        result.add(Outcome.INCOMPLETE if gap else Outcome.TAMPERED, f"bundle {row['sequence']}: {error}")
        result.head = ChainHead(bundle.sequence, digest)


def _compare_heads(result: Verification, device: RowMapping) -> None:
    stored = ChainHead(device["evidence_sequence"], device["evidence_digest"])
    if result.head.sequence < stored.sequence:
        missing = f"{result.head.sequence + 1} to {stored.sequence}"
        result.add(Outcome.INCOMPLETE, f"bundles {missing} were acknowledged and are not there")
    elif result.head != stored:
        result.add(Outcome.TAMPERED, f"the chain ends at {result.head.sequence}, but {stored.sequence} is on record")
    report = last_report(device["report"])
    told = report.evidence_head if report is not None else ChainHead()
    if told.sequence == result.head.sequence and told.digest != result.head.digest:
        result.add(Outcome.TAMPERED, f"the device itself reports another bundle {told.sequence}")


async def export(connection: AsyncConnection, device_id: str) -> AsyncIterator[str]:
    """The chain as JSON lines: a header with the key to verify it by, then one envelope a line, oldest first."""
    device = (await connection.execute(sa.select(devices).where(devices.c.id == device_id))).mappings().one()
    header = {
        "format": "appliance-evidence-export.v1", "device_id": device_id, "public_key": device["public_key"],
        "exported_at": time.time(), "head": {"sequence": device["evidence_sequence"],
                                             "digest": device["evidence_digest"]},
    }
    yield json.dumps(header) + "\n"
    async for row in intake.chain(connection, device_id):
        yield row["envelope"] + "\n"


def read_export(lines: list[bytes]) -> tuple[str, PublicKey, ChainHead, list[Envelope]]:
    """The parts of an exported chain. Raises `ValueError` when it is not one (a cut last line included)."""
    if not lines:
        raise ValueError("the file is empty")
    header = json.loads(lines[0])
    if not isinstance(header, dict) or header.get("format") != "appliance-evidence-export.v1":
        raise ValueError("the first line is not the header of an evidence export")
    head = ChainHead(int(header["head"]["sequence"]), str(header["head"]["digest"]))
    key = PublicKey.from_text(str(header["public_key"]))
    return str(header["device_id"]), key, head, [parse(line) for line in lines[1:]]
