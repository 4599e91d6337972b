"""`evidence`: what an auditor runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from appliance_protocol.envelope import EnvelopeError
from appliance_protocol.evidence import ChainFault, verify_chain
from appliance_protocol.keys import KeyFormatError
from central_command import fleet, verification
from central_command.cli.common import Context, command_options, fail, run, tell
from central_command.verification import Outcome, Verification


@click.group()
def evidence() -> None:
    """The devices' signed evidence."""


@evidence.command()
@click.argument("device_id", required=False)
@click.option(
    "--file", "path", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Verify an export instead of the database.",
)
@command_options
def verify(context: Context, device_id: str | None, path: Path | None) -> None:
    """Walk a device's whole chain again: every signature, every link, and that it ends where it should.

    \b
    Exit codes: 0 intact; 1 tampered with; 2 incomplete; 3 nothing that could be verified.
    """
    if (device_id is None) == (path is None):
        raise click.UsageError("name a device, or --file with an export")
    result = _verify_file(path) if path is not None else run(_verify(context, device_id or ""))
    sentence = f"{result.outcome.name.lower()}: {result.bundles} bundles, head {result.head.sequence}"
    shown = {
        "device_id": result.device_id, "outcome": result.outcome.name.lower(), "bundles": result.bundles,
        "head": {"sequence": result.head.sequence, "digest": result.head.digest}, "findings": result.findings,
    }
    tell(context, shown, "\n".join([*result.findings, sentence]))
    sys.exit(int(result.outcome))


async def _verify(context: Context, device_id: str) -> Verification:
    async with context.database() as database, database.read() as connection:
        return await verification.verify(connection, device_id)


def _verify_file(path: Path) -> Verification:
    try:
        device_id, key, head, envelopes = verification.read_export(path.read_bytes().splitlines())
    except (OSError, KeyError, TypeError, ValueError, EnvelopeError, KeyFormatError) as error:
        fail(f"{path}: not a readable export: {error}", int(Outcome.UNVERIFIABLE))
    report = verify_chain(envelopes, device_id, [key])
    result = Verification(device_id, Outcome.OK, len(envelopes), report.head)
    for finding in report.findings:
        outcome = Outcome.INCOMPLETE if finding.fault is ChainFault.GAP else Outcome.TAMPERED
        result.add(outcome, f"bundle {finding.sequence}: {finding.fault.value}: {finding.detail}")
    if report.head.sequence < head.sequence:
        result.add(Outcome.INCOMPLETE, f"bundles {report.head.sequence + 1} to {head.sequence} are missing")
    elif report.head != head:
        result.add(Outcome.TAMPERED, "the chain does not end with the bundle that the header names")
    if not envelopes and result.outcome is Outcome.OK:
        result.add(Outcome.UNVERIFIABLE, "there is no evidence in this export")
    return result


@evidence.command()
@click.argument("device_id")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Instead of standard output.")
@command_options
def export(context: Context, device_id: str, output: Path | None) -> None:
    """Write a device's chain as JSON lines: a header with its key, then one signed envelope a line."""

    async def work() -> int:
        count = -1
        async with context.database() as database, database.read() as connection:
            view = await fleet.find(connection, context.settings(), device_id)
            with (output.open("w") if output is not None else sys.stdout) as file:
                async for line in verification.export(connection, view.id):
                    file.write(line)
                    count += 1
        return count

    count = run(work())
    if output is not None:
        tell(context, json.loads(json.dumps({"bundles": count, "file": str(output)})), f"{count} bundles in {output}")
