"""The command `appliance-update rehearse`."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from appliance_update.config import Config, ConfigError, load
from appliance_update.host import Host
from appliance_update.rehearsal import Rehearsal, Watcher
from appliance_update.rehearsal_report import Report, conclude

FAILED = 8


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The report as JSON, as in /run/appliance-update/rehearsal.json.")
@click.pass_obj
def rehearse(config_path: Path, as_json: bool) -> None:
    """Try whether this system can still replace itself; nothing is installed.

    The canary release of the image is fetched from loopback, verified, staged and written into a scratch directory,
    all with the code of a real update; then the configured units rehearse their part.

    \b
    Exit codes:
      0  it can
      2  the configuration cannot be used
      8  it cannot; the reason is on stderr, in the history, and for the gate in rehearsal.json
    """
    try:
        config, _ = load(config_path)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    with _alone(config), _watched() as watcher:
        report = Rehearsal(config, Host(), watcher=watcher).run()
        try:
            conclude(config, report)
        except OSError as error:
            click.echo(f"The report could not be kept: {error}", err=True)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(report), indent=1, sort_keys=True))
    else:
        _show(report)
    sys.exit(0 if report.passed else FAILED)


def _show(report: Report) -> None:
    for stage in report.stages:
        click.echo(f"  {stage.seconds:6.2f} s  {stage.name}")
    if report.passed:
        click.echo(f"{report.version or 'This system'} can update itself ({report.seconds:.0f} s)")
    else:
        click.echo(f"{report.version or 'This system'} CANNOT update itself: {report.reason}", err=True)


@contextmanager
def _alone(config: Config) -> Iterator[None]:
    """One rehearsal at a time; the second waits. It shares no file with an update that may be under way."""
    runtime = Path(config.paths.runtime)
    runtime.mkdir(parents=True, exist_ok=True)
    handle = os.open(runtime / "rehearsal.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _watched() -> Iterator[Watcher]:
    """A bar over the stages on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _name, _done, _total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=None)
        yield lambda name, done, total: bars.update(task, description=name, completed=done, total=total)
