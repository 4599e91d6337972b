"""What the commands of `appliance-release` share: options, errors spoken, progress shown, results printed."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from appliance_release import keys
from appliance_release.artifacts import ArtifactError
from appliance_release.releases import Downgrade, PublishError
from appliance_release.repository import Repository

DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
CLOCK_LEAD = 3600.0
"""Seconds by which the last signature may lie ahead of our clock before we speak of it."""

class_option = click.option("--device-class", default="t640", show_default=True)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@contextmanager
def spoken_errors() -> Iterator[None]:
    """Turn expected errors into a sentence on stderr and exit code 2."""
    try:
        yield
    except (PublishError, ArtifactError, keys.KeyFileError, OSError) as error:
        click.echo(str(error), err=True)
        sys.exit(2)


def repository_options(command: click.decorators.FC) -> click.decorators.FC:
    """--repository, and what finds and opens the keys."""
    command = click.option(
        "--passphrase-file", type=FILE, help="Its first line opens encrypted offline keys; else you are asked."
    )(command)
    command = click.option(
        "--offline", type=DIRECTORY, help="The folder of the root and targets keys, when not KEYS/offline."
    )(command)
    command = click.option("--keys", "keys_", type=DIRECTORY, default=Path("keys"), show_default=True)(command)
    return click.option("--repository", type=DIRECTORY, required=True, help="The directory that is served.")(command)


def opened(repository: Path, keys_: Path, offline: Path | None, passphrase_file: Path | None) -> Repository:
    """The repository with its keys; asks for the passphrase when one is needed and somebody is there."""
    made = Repository(repository, keys_, time.time(), offline, passphrase_of(passphrase_file))
    files = [path for role in keys.OFFLINE for path in made.ring.files(role)]
    if not made.passphrase and sys.stdin.isatty() and any(b"ENCRYPTED" in path.read_bytes() for path in files):
        made = replace(
            made, passphrase=click.prompt("Passphrase of the offline keys", hide_input=True, err=True).encode()
        )
    if made.last_signed > made.now + CLOCK_LEAD:
        click.echo(
            f"The last signature is {made.last_signed - made.now:.0f} s ahead of this machine's clock. Devices have "
            "learnt that time, so we go on from there; see which clock is wrong", err=True,
        )  # fmt: skip
    return made


def passphrase_of(path: Path | None) -> bytes:
    """The first line of a file; empty without one."""
    return path.read_bytes().partition(b"\n")[0].rstrip(b"\r") if path else b""


@contextmanager
def watched(repository: Repository) -> Iterator[Repository]:
    """The same repository, with its long steps shown: bars on a terminal, one line a step elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        said: set[str] = set()

        def line(what: str, _done: int, _total: int) -> None:
            if what not in said:
                said.add(what)
                click.echo(what, err=True)

        yield replace(repository, report=line)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def bar(what: str, done: int, total: int) -> None:
            task = tasks.setdefault(what, bars.add_task(what, total=None)) if what not in tasks else tasks[what]
            bars.update(task, completed=done, total=total or None)

        yield replace(repository, report=bar)


def say(document: dict[str, Any], sentence: str, as_json: bool) -> None:
    """The result, for people or for programs."""
    click.echo(json.dumps(document, sort_keys=True) if as_json else sentence)


def moment(text: str) -> float:
    """Seconds since the epoch of a day (its end) or a time, UTC unless it says otherwise."""
    try:
        parsed = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no date like 2026-12-31 and no time like 2026-12-31T18:00Z") from error
    if len(text) == len("2026-12-31"):
        parsed = parsed.replace(hour=23, minute=59, second=59)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).timestamp()


def downgrade_of(versions: tuple[str, ...], until: str | None) -> Downgrade | None:
    """--downgrade-from and --downgrade-until together, or neither."""
    if bool(versions) != bool(until):
        raise click.UsageError("--downgrade-from and --downgrade-until go together")
    return Downgrade(versions, moment(until)) if until else None


def counts_of(pairs: tuple[str, ...], what: str) -> dict[str, int]:
    """ROLE=N, repeated."""
    found = {}
    for pair in pairs:
        role, _, number = pair.partition("=")
        if role not in keys.ROLES or not number.isdecimal() or int(number) < 1:
            raise click.UsageError(f"{what} takes ROLE=N with a role of {', '.join(keys.ROLES)}, not {pair!r}")
        found[role] = int(number)
    return found


def description_options(command: click.decorators.FC) -> click.decorators.FC:
    """What can be said of a release beside its files, at first and later."""
    for option in reversed((
        click.option("--from-version", "from_versions", multiple=True, help="A version the update was proven from; "
                     "repeat. Without it: from every version."),
        click.option("--cohort", type=click.IntRange(0, 100), help="Offer it to this share of devices, in percent."),
        click.option("--downgrade-from", "downgrade_from", multiple=True, help="Let devices on this higher version go "
                     "back to it; repeat."),
        click.option("--downgrade-until", help="The last day (or time) for that, UTC."),
    )):  # fmt: skip
        command = option(command)
    return command
