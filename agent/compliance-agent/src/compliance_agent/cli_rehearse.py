"""`compliance-agent rehearse`: walk an update order through this release, and touch nothing real."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import click

from compliance_agent.answers import FAILED, OK, as_text
from compliance_agent.rehearsal import rehearse


def run(config_path: Path, as_json: bool) -> int:
    """Rehearse in a temporary directory and show how it went; the exit code."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
        report = rehearse(config_path, Path(scratch))
    if as_json:
        click.echo(as_text(report))
    else:
        for remark in report.remarks:
            click.echo(f"remark: {remark}", err=True)
        if report.passed:
            click.echo(f"An update order would be carried out ({', '.join(report.stages)}; {report.seconds} s).")
        else:
            click.echo(f"An update order would NOT be carried out: {report.reason}", err=True)
    return OK if report.passed else FAILED
