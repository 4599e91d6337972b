"""Evidence: verified, chained and stored for ever; what does not fit the chain is refused and remembered."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from appliance_protocol.device_api import MAX_BUNDLES_PER_UPLOAD, EvidenceReceipt, EvidenceUpload
from appliance_protocol.envelope import Envelope, parse, peek
from appliance_protocol.evidence import (
    ChainError,
    ChainFault,
    ChainFinding,
    ChainHead,
    EvidenceBundle,
    follow,
    open_bundle,
)
from appliance_protocol.keys import PublicKey
from appliance_protocol.verdict import score
from appliance_protocol.wire import WireError
from central_command import incidents
from central_command.checkins import DeviceGone
from central_command.foreign import clean
from central_command.incidents import IncidentKind
from central_command.tables import devices, evidence


@dataclass(frozen=True)
class Opened:
    """A bundle that is good in itself, not yet in its place."""

    envelope: Envelope
    bundle: EvidenceBundle
    digest: str


@dataclass(frozen=True)
class EvidenceRow:
    """One stored bundle, without the bundle. `device_at` is the device's clock, `received_at` the server's."""

    sequence: int
    digest: str
    cause: str
    device_at: float
    clock_state: str
    conforming: int
    counted: int
    received_at: float


def open_upload(upload: EvidenceUpload, key: PublicKey) -> list[Opened | ChainFinding]:
    """Verify each bundle by itself. This is the expensive part; it needs no database and may run in a thread.

    Raises `WireError` when there are more bundles than one upload may have.
    """
    if len(upload.bundles) > MAX_BUNDLES_PER_UPLOAD:
        raise WireError(f"EvidenceUpload: {len(upload.bundles)} bundles, at most {MAX_BUNDLES_PER_UPLOAD} are taken")
    return [_open(envelope, upload.device_id, key) for envelope in upload.bundles]


def _open(envelope: Envelope, device_id: str, key: PublicKey) -> Opened | ChainFinding:
    try:
        bundle, digest = open_bundle(envelope, device_id, [key])
    except ChainError as error:
        return error.finding
    if bundle.sequence < 1:
        return ChainFinding(ChainFault.UNREADABLE, 0, f"sequence {bundle.sequence}: bundles are numbered from 1")
    return Opened(envelope, bundle, digest)


async def take(connection: AsyncConnection, device_id: str, opened: Sequence[Opened | ChainFinding]) -> EvidenceReceipt:
    """Append what continues the stored chain, in the transaction of `connection`, which locks the device's chain.

    Raises `DeviceGone`.
    """
    query = (
        sa.select(devices.c.evidence_sequence, devices.c.evidence_digest)
        .where(devices.c.id == device_id, devices.c.state == "active").with_for_update()
    )
    row = (await connection.execute(query)).first()
    if row is None:
        raise DeviceGone("this device is not enrolled here (any more)")
    start = head = ChainHead(row[0], row[1])
    stored = await _stored(connection, device_id, [item.bundle.sequence for item in opened if isinstance(item, Opened)])
    accepted: list[Opened] = []
    duplicates = 0
    findings: list[ChainFinding] = []
    for item in opened:
        finding, head = _place(item, head, stored)
        if finding is None and isinstance(item, Opened):
            accepted.append(item)
            stored[item.bundle.sequence] = item.digest
        elif finding is not None and finding.fault is ChainFault.DUPLICATE:
            duplicates += 1
        elif finding is not None:
            findings.append(finding)
    if accepted:
        await _append(connection, device_id, accepted, head)
    await _remember(connection, device_id, findings, start)
    refused = tuple(_sentence(finding) for finding in findings)
    return EvidenceReceipt(device_id, head, len(accepted), duplicates, refused)


def _place(
    item: Opened | ChainFinding, head: ChainHead, stored: dict[int, str]
) -> tuple[ChainFinding | None, ChainHead]:
    if isinstance(item, ChainFinding):
        return item, head
    sequence = item.bundle.sequence
    if stored.get(sequence) == item.digest:
        return ChainFinding(ChainFault.DUPLICATE, sequence, "stored before, byte for byte"), head
    if sequence in stored:
        detail = f"bundle {sequence} is stored as {stored[sequence]}; this one is {item.digest}"
        return ChainFinding(ChainFault.FORK, sequence, detail), head
    try:
        return None, follow(head, item.bundle, item.digest)
    except ChainError as error:
        return error.finding, head


async def _stored(connection: AsyncConnection, device_id: str, sequences: list[int]) -> dict[int, str]:
    if not sequences:
        return {}
    query = sa.select(evidence.c.sequence, evidence.c.digest).where(
        evidence.c.device_id == device_id, evidence.c.sequence.in_(sequences)
    )
    return {row.sequence: row.digest for row in await connection.execute(query)}


async def _append(connection: AsyncConnection, device_id: str, accepted: list[Opened], head: ChainHead) -> None:
    now = time.time()
    rows = []
    for item in accepted:
        said = item.bundle
        counted = score(said.results, said.clock.wall)
        rows.append({
            "device_id": device_id, "sequence": said.sequence, "digest": item.digest, "previous": said.previous,
            "cause": said.cause.value, "device_at": said.clock.wall, "clock_state": said.clock.state.value,
            "conforming": counted.conforming, "counted": counted.counted, "received_at": now,
            "envelope": item.envelope.to_bytes().decode(),
        })
    await connection.execute(sa.insert(evidence), rows)
    move = sa.update(devices).where(devices.c.id == device_id).values(
        evidence_sequence=head.sequence, evidence_digest=head.digest, evidence_at=now
    )
    await connection.execute(move)


async def _remember(
    connection: AsyncConnection, device_id: str, findings: list[ChainFinding], start: ChainHead
) -> None:
    """One incident a kind and upload: fifty bundles behind one gap are one gap."""
    seen: set[ChainFault] = set()
    for finding in findings:
        if finding.fault in seen:
            continue
        seen.add(finding.fault)
        mark = f"after {start.sequence}" if finding.fault is ChainFault.GAP else f"at {finding.sequence}"
        kind = f"{IncidentKind.EVIDENCE.value}-{finding.fault.value}"
        await incidents.record(connection, device_id, kind, mark, _sentence(finding))


def _sentence(finding: ChainFinding) -> str:
    return clean(f"bundle {finding.sequence}: {finding.fault.value}: {finding.detail}")


async def rows(
    connection: AsyncConnection, device_id: str, *, before: int | None = None, limit: int = 50
) -> list[EvidenceRow]:
    """A device's bundles, newest first."""
    columns = [evidence.c[name] for name in EvidenceRow.__dataclass_fields__]
    query = sa.select(*columns).where(evidence.c.device_id == device_id).order_by(evidence.c.sequence.desc())
    if before is not None:
        query = query.where(evidence.c.sequence < before)
    return [EvidenceRow(**row) for row in (await connection.execute(query.limit(limit))).mappings()]


async def envelope_text(connection: AsyncConnection, device_id: str, sequence: int) -> str | None:
    """One bundle's envelope, exactly as it was signed; None when there is no such bundle."""
    query = sa.select(evidence.c.envelope).where(evidence.c.device_id == device_id, evidence.c.sequence == sequence)
    found: str | None = (await connection.execute(query)).scalar_one_or_none()
    return found


async def chain(connection: AsyncConnection, device_id: str, page: int = 200) -> AsyncIterator[RowMapping]:
    """Every stored row of a device's chain in order, read page by page."""
    last = -1
    while True:
        query = (
            sa.select(evidence).where(evidence.c.device_id == device_id, evidence.c.sequence > last)
            .order_by(evidence.c.sequence).limit(page)
        )
        found = (await connection.execute(query)).mappings().all()
        for row in found:
            yield row
        if len(found) < page:
            return
        last = found[-1]["sequence"]


def newest_bundle(text: str | None) -> EvidenceBundle | None:
    """The bundle inside a stored envelope, for display; it was verified when it was stored."""
    return None if text is None else peek(parse(text.encode()), EvidenceBundle)
