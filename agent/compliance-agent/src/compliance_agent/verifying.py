"""Verifying evidence offline: the device's own ledger, or an exported file, against a pinned key."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance_protocol.envelope import Envelope, EnvelopeError, parse
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
from appliance_protocol.wire import WireError, canonical, decode

MAX_LINE = 8 << 20


class Judgement(enum.IntEnum):
    """The outcome of a verification; its value is the exit code."""

    OK = 0
    TAMPERED = 1
    INCOMPLETE = 2
    UNVERIFIABLE = 3


@dataclass(frozen=True)
class ExportHeader:
    """The first line of an exported file. The key in it is a hint; an auditor pins the one Central Command has."""

    device_id: str
    public_key: str
    first: int
    last: int
    exported_at: float
    format: int = 1


@dataclass(frozen=True)
class Verification:
    """What a verification found."""

    judgement: Judgement
    device_id: str
    verified: int
    first: int
    last: int
    findings: tuple[ChainFinding, ...] = ()
    reason: str = ""


INCOMPLETE_FAULTS = (ChainFault.GAP, ChainFault.DUPLICATE)


def verify(
    envelopes: Iterable[Envelope], device_id: str, key: PublicKey, adopted: Iterable[ChainHead] = (), first: int = 1
) -> Verification:
    """Walk a chain. It may begin late (earlier bundles were pruned after Central Command took them): `first` says
    where it has to begin. At an adopted head, which the device took over from Central Command, it may go on.
    """
    heads = {head.sequence: head for head in adopted}
    head: ChainHead | None = None
    findings: list[ChainFinding] = []
    verified = begun = 0
    for envelope in envelopes:
        try:
            bundle, digest = open_bundle(envelope, device_id, [key])
        except ChainError as error:
            findings.append(error.finding)
            continue
        begun = begun or bundle.sequence
        head = _expected(head, bundle, heads, first)
        try:
            head = follow(head, bundle, digest)
            verified += 1
        except ChainError as error:
            findings.append(error.finding)
            if error.finding.fault in (ChainFault.GAP, ChainFault.BROKEN_LINK):
                head = ChainHead(bundle.sequence, digest)
    last = head.sequence if head is not None else 0
    return Verification(_judge(findings, verified), device_id, verified, begun, last, tuple(findings))


def _expected(head: ChainHead | None, bundle: EvidenceBundle, adopted: dict[int, ChainHead], first: int) -> ChainHead:
    """What the bundle has to follow: the one before it, an adopted head, or the pruned part of the chain."""
    taken_over = adopted.get(bundle.sequence - 1)
    if taken_over is not None and taken_over.digest == bundle.previous:
        return taken_over
    if head is None:
        return ChainHead(first - 1, bundle.previous) if first > 1 else ChainHead()
    return head


def _judge(findings: list[ChainFinding], verified: int) -> Judgement:
    if any(finding.fault not in INCOMPLETE_FAULTS for finding in findings):
        return Judgement.TAMPERED
    if findings:
        return Judgement.INCOMPLETE
    return Judgement.OK if verified else Judgement.UNVERIFIABLE


def write_export(path: Path, header: ExportHeader, envelopes: Iterable[Envelope]) -> int:
    """Write header and bundles, one JSON document a line. Returns how many bundles. Raises `OSError`."""
    count = 0
    with path.open("wb") as file:
        file.write(canonical(header) + b"\n")
        for envelope in envelopes:
            file.write(envelope.to_bytes() + b"\n")
            count += 1
    return count


class Unreadable(ValueError):
    """An exported file that is none; the message says where."""


def read_export(path: Path) -> tuple[ExportHeader, Iterator[Envelope]]:
    """The header and the bundles of an exported file. A line that is no envelope comes as one that cannot verify.

    Raises `OSError` and `Unreadable`.
    """
    with path.open("rb") as file:
        first = file.readline(MAX_LINE)
    try:
        header = decode(first, ExportHeader)
    except WireError as error:
        raise Unreadable(f"{path}: the first line is not the header of an export: {error}") from error
    return header, _lines(path)


def _lines(path: Path) -> Iterator[Envelope]:
    with path.open("rb") as file:
        file.readline(MAX_LINE)
        while line := file.readline(MAX_LINE):
            try:
                yield parse(line)
            except EnvelopeError:
                yield Envelope("unreadable", "", ())
