"""`compliance-agent evidence`: list, show, export and verify, straight from the ledger."""

from __future__ import annotations

import time
from pathlib import Path

import click

from appliance_protocol.evidence import EvidenceBundle, payload_digest
from appliance_protocol.keys import KeyFormatError, PublicKey
from appliance_protocol.wire import decode
from compliance_agent.answers import FAILED, OK, as_text, fail
from compliance_agent.identity import Enrolment, Identity, IdentityError
from compliance_agent.ledger import Ledger
from compliance_agent.verifying import (
    ExportHeader,
    Judgement,
    Unreadable,
    Verification,
    read_export,
    verify,
    write_export,
)


def show_list(ledger: Ledger, enrolment: Enrolment, limit: int, before: int | None, as_json: bool) -> None:
    """The newest bundles."""
    entries = ledger.entries(enrolment.device_id, before, limit)
    if as_json:
        click.echo(as_text(entries))
        return
    for entry in entries:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in entry.verdict_counts.items())
        sent = "sent" if entry.sent_at is not None else "waiting"
        clock = "" if entry.clock == "synchronised" else f" (clock {entry.clock.value})"
        written = f"{_when(entry.written_at)}{clock}"
        click.echo(f"{entry.sequence:>8}  {written}  {entry.cause.value:<8}  {sent:<7}  {counts}")
    if not entries:
        click.echo("no evidence yet")


def show_one(ledger: Ledger, enrolment: Enrolment, sequence: int, as_json: bool) -> int:
    """One bundle; the exit code."""
    envelope = ledger.envelope(enrolment.device_id, sequence)
    if envelope is None:
        fail(f"bundle {sequence} is not kept here", FAILED)
    if as_json:
        click.echo(as_text(envelope))
        return OK
    payload = envelope.payload_bytes
    bundle = decode(payload, EvidenceBundle)
    click.echo(f"Bundle {bundle.sequence} of {bundle.device_id}, {bundle.cause.value}, {_when(bundle.clock.wall)}")
    click.echo(f"Clock {bundle.clock.state.value}; release {bundle.release.id} {bundle.release.version}")
    click.echo(f"SHA-256 {payload_digest(payload)}, after {bundle.previous}")
    for result in bundle.results:
        click.echo(f"  {result.verdict.value:<14}{result.check_id:<28}{result.reason}")
    return OK


def export(
    ledger: Ledger, identity: Identity, enrolment: Enrolment, output: Path, first: int, last: int | None
) -> None:
    """Bundles into a file."""
    try:
        key = identity.key().public
        head = ledger.head(enrolment.device_id)
        oldest = next(iter(ledger.envelopes(enrolment.device_id, first, last)), None)
        if oldest is None:
            fail("there is no such evidence here")
        begin = decode(oldest.payload_bytes, EvidenceBundle).sequence
        header = ExportHeader(
            enrolment.device_id, key.text, begin, min(last or head.sequence, head.sequence), time.time()
        )
        count = write_export(output, header, ledger.envelopes(enrolment.device_id, first, last))
    except OSError as error:
        fail(f"{output}: {error.strerror or error}")
    except IdentityError as error:
        fail(str(error))
    click.echo(f"{count} bundles in {output}")


def verify_here(ledger: Ledger, identity: Identity, enrolment: Enrolment, public_key: str | None, as_json: bool) -> int:
    """The device's own ledger; the exit code."""
    try:
        key = PublicKey.from_text(public_key) if public_key else identity.key().public
    except (KeyFormatError, IdentityError) as error:
        return _tell(_unverifiable(enrolment.device_id, str(error)), as_json)
    own = ("evidence", "device_id = ?", (enrolment.device_id,))
    oldest = ledger.database.rows(*own, order_by="sequence", select="sequence", limit=1)
    first = int(oldest[0]["sequence"]) if oldest else 1
    outcome = verify(
        ledger.envelopes(enrolment.device_id), enrolment.device_id, key, ledger.adopted(enrolment.device_id), first
    )
    return _tell(outcome, as_json)


def verify_file(file: Path, public_key: str | None, as_json: bool) -> int:
    """An exported file; the exit code."""
    try:
        header, envelopes = read_export(file)
        key = PublicKey.from_text(public_key or header.public_key)
    except OSError as error:
        return _tell(_unverifiable("", f"{file}: {error.strerror or error}"), as_json)
    except (KeyFormatError, Unreadable) as error:
        return _tell(_unverifiable("", str(error)), as_json)
    outcome = verify(envelopes, header.device_id, key, (), header.first)
    if outcome.judgement is Judgement.OK and outcome.last != header.last:
        ends = f"the file ends at {outcome.last}, its header promises {header.last}"
        outcome = Verification(
            Judgement.INCOMPLETE, outcome.device_id, outcome.verified, outcome.first, outcome.last, (), ends
        )
    if public_key is None and not as_json:
        click.echo("note: verified with the key in the file; pin the one Central Command knows with --public-key")
    return _tell(outcome, as_json)


def _unverifiable(device_id: str, reason: str) -> Verification:
    return Verification(Judgement.UNVERIFIABLE, device_id, 0, 0, 0, (), reason)


def _tell(outcome: Verification, as_json: bool) -> int:
    if as_json:
        click.echo(as_text({"outcome": outcome.judgement.name.lower(), "report": outcome}))
        return int(outcome.judgement)
    for finding in outcome.findings[:50]:
        click.echo(f"  {finding.fault.value} at {finding.sequence}: {finding.detail}")
    span = f"{outcome.verified} bundles verified, {outcome.first} to {outcome.last}" if outcome.verified else "none"
    reason = f"; {outcome.reason}" if outcome.reason else ""
    click.echo(f"{outcome.judgement.name.lower()}: {span}{reason}")
    return int(outcome.judgement)


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
