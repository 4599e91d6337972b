"""The command line `appliance-update`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from appliance_update import history, thoughts
from appliance_update import watch as watching
from appliance_update.clock import spoken
from appliance_update.config import CONFIG_FILE, ConfigError, load
from appliance_update.device import DeviceError
from appliance_update.layout import LayoutError
from appliance_update.machine import assemble
from appliance_update.record import State
from appliance_update.rehearse_cli import rehearse
from appliance_update.status_table import table_of
from appliance_update.store import Busy, Store
from appliance_update.tuf_cli import tuf_client
from appliance_update.updater import Failure, UpdateError, Updater

EXIT_CODES = """
\b
Exit codes:
  0  done, or nothing to do
  1  unexpected failure (a full or failing disk)
  2  misuse, or a configuration that cannot be used
  3  the repository could not be reached or not be trusted
  4  an artifact could not be fetched or was not what was signed
  5  the release could not be installed
  6  this device refuses updates now (see `appliance-update status`)
  7  another updater is at work
  8  `rehearse`: this system cannot update itself
"""


@contextmanager
def spoken_errors() -> Iterator[None]:
    """Turn every expected error into one sentence on stderr and its exit code."""
    try:
        yield
    except UpdateError as error:
        _say(str(error))
        sys.exit(int(error.failure))
    except Busy as error:
        _say(str(error))
        sys.exit(int(Failure.BUSY))
    except (ConfigError, LayoutError) as error:
        _say(str(error))
        sys.exit(2)
    except OSError as error:
        _say(f"{error}; is the state partition full or failing?")
        sys.exit(1)


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


@contextmanager
def watched(store: Store) -> Iterator[None]:
    """Show progress on a terminal, one line a state elsewhere (the journal)."""
    console = Console(stderr=True)
    if not console.is_terminal:

        def line(state: State, done: int, total: int) -> None:
            if not total and not state.settled:
                _say(f"{state.value} {store.record.candidate.version if store.record.candidate else ''}".strip())

        store.watcher = line
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("starting", total=None)

        def bar(state: State, done: int, total: int) -> None:
            bars.update(task, description=state.value, completed=done, total=total or None)

        store.watcher = bar
        yield


@contextmanager
def prepared(config_path: Path) -> Iterator[Updater]:
    """The machine's updater, locked, settled, with errors spoken."""
    with spoken_errors():
        updater = assembled(config_path)
        with updater.store.locked(), watched(updater.store):
            if not updater.settle():
                raise UpdateError(updater.store.record.detail, Failure.DEVICE)
            yield updater


def assembled(config_path: Path) -> Updater:
    """The machine's updater; warnings about the configuration go to stderr."""
    config, warnings = load(config_path)
    for warning in warnings:
        _say(warning)
    return assemble(config)


@click.group(epilog=EXIT_CODES)
@click.option("--config", "config_path", type=click.Path(path_type=Path), default=CONFIG_FILE, show_default=True)
@click.version_option(package_name="appliance-update")
@click.pass_context
def main(context: click.Context, config_path: Path) -> None:
    """Replace the appliance's system image: into the other slot, on trial, with automatic rollback."""
    context.obj = config_path


main.add_command(tuf_client)
main.add_command(rehearse)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="The status document, as in /run/appliance-update/status.json.")
@click.pass_obj
def status(config_path: Path, as_json: bool) -> None:
    """Show running version, slots, and where an update stands."""
    with spoken_errors():
        updater = assembled(config_path)
        store = updater.store
        store.load()
        store.running_version = updater.host.image_version
        trouble = updater.look()
        now = store.status()
        if as_json:
            click.echo(json.dumps(msgspec.to_builtins(now), indent=1, sort_keys=True))
            return
        known = thoughts.load(store.state)
        tried = known.versions if known else {}
        doubts = {version: f"{each.reason} ({each.stage.value}, {each.other})" for version, each in tried.items()}
        table = table_of(now, trouble, doubts)
        Console(highlight=False).print(table)


@main.command()
@click.pass_obj
def check(config_path: Path) -> None:
    """Ask the repository whether there is a release for this device."""
    with prepared(config_path) as updater:
        candidate = updater.check()
        click.echo(f"{candidate.version} is available" if candidate else updater.store.record.detail)


@main.command()
@click.pass_obj
def fetch(config_path: Path) -> None:
    """Check, download and verify, without installing."""
    with prepared(config_path) as updater:
        updater.fetch()
        click.echo(updater.store.record.detail)


@main.command()
@click.option("--reboot/--no-reboot", default=False, show_default=True, help="Then boot it, in the maintenance window.")
@click.pass_obj
def apply(config_path: Path, reboot: bool) -> None:
    """Install what was fetched into the other slot and arm it."""
    with prepared(config_path) as updater:
        if updater.store.record.state is not State.ARMED:
            updater.apply()
        if reboot:
            updater.restart()
        click.echo(updater.store.record.detail)


@main.command()
@click.pass_obj
def run(config_path: Path) -> None:
    """Do what the timer does: check, fetch, verify, install, reboot on trial."""
    with spoken_errors():
        updater = assembled(config_path)
        with watched(updater.store):
            outcome, sentence = updater.run()
        click.echo(f"{outcome.value}: {sentence}")


@main.command(name="settle")
@click.pass_obj
def settle_command(config_path: Path) -> None:
    """After a boot: record whether the trial was committed or rolled back."""
    with spoken_errors():
        updater = assembled(config_path)
        with updater.store.locked():
            updater.settle()
        click.echo(updater.store.record.detail or updater.store.record.state.value)


@main.command()
@click.pass_obj
def watch(config_path: Path) -> None:
    """Look whether the running version is still good, as `appliance-update-watch` does every quarter of an hour."""
    with spoken_errors():
        updater = assembled(config_path)
        try:
            click.echo(watching.assemble(updater.config, updater.host, updater.layout).look())
        except DeviceError as error:
            raise UpdateError(str(error), Failure.DEVICE) from error


@main.command(name="history")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, oldest first.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.pass_obj
def history_command(config_path: Path, as_json: bool, limit: int) -> None:
    """Show what updates did on this device, also the failed ones."""
    with spoken_errors():
        updater = assembled(config_path)
        entries, damaged = history.read(updater.store.history_path)
        if as_json:
            for entry in entries[-limit:]:
                click.echo(json.dumps(msgspec.to_builtins(entry), sort_keys=True))
        else:
            table = Table("when", "what", "version", "why", box=None)
            for entry in entries[-limit:]:
                table.add_row(spoken(entry.at), entry.event, entry.version, entry.reason)
            Console(highlight=False).print(table)
        if damaged:
            _say(f"{damaged} lines of the history could not be read (a power cut while writing leaves one)")


@main.command(name="mark-bad")
@click.argument("version")
@click.option("--reason", default="marked bad by hand", show_default=True)
@click.pass_obj
def mark_bad(config_path: Path, version: str, reason: str) -> None:
    """Never install VERSION here (again); disarm it if it is waiting for its first boot."""
    with spoken_errors():
        updater = assembled(config_path)
        with updater.store.locked():
            updater.mark_bad(version, reason)
        click.echo(f"{version} is quarantined")
