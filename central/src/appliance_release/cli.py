"""The command line `appliance-release`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from appliance_release import keys
from appliance_release.artifacts import ArtifactError, collect
from appliance_release.lifeline import lifeline
from appliance_release.repository import Description, PublishError, Repository

DIRECTORY = click.Path(path_type=Path, file_okay=False)

EPILOG = """
\b
Exit codes:
  0  done; `verify`: nothing wrong
  1  `verify` found something wrong
  2  misuse: wrong arguments, missing keys, or what must not be published
"""


@contextmanager
def spoken_errors() -> Iterator[None]:
    """Turn expected errors into one sentence on stderr and exit code 2."""
    try:
        yield
    except (PublishError, ArtifactError, keys.KeyFileError, OSError) as error:
        click.echo(str(error), err=True)
        sys.exit(2)


def repository_options(command: click.decorators.FC) -> click.decorators.FC:
    """--repository and --keys."""
    command = click.option("--keys", "keys_", type=DIRECTORY, default=Path("keys"), show_default=True)(command)
    return click.option("--repository", type=DIRECTORY, required=True, help="The directory that is served.")(command)


@click.group(epilog=EPILOG)
@click.version_option(package_name="central-command")
def main() -> None:
    """Publish releases of the appliance: signed metadata over static files, for any web server."""


@main.command()
@click.argument("directory", type=DIRECTORY)
def keygen(directory: Path) -> None:
    """Make the keys of a new repository in DIRECTORY: offline/ (root, targets) and online/ (snapshot, timestamp)."""
    with spoken_errors():
        for path in keys.generate(directory):
            click.echo(path)
        click.echo(f"Move {directory / 'offline'} to a medium that is kept in a safe; it signs releases.", err=True)


@main.command()
@repository_options
def init(repository: Path, keys_: Path) -> None:
    """Make a new, empty repository."""
    with spoken_errors():
        trusted = Repository(repository, keys_, time.time()).init()
        click.echo(f"{trusted} is the trusted root: ship it as share/appliance-update/root.json in every image")


@main.command()
@repository_options
@click.option("--version", required=True, help="YYYY.MM.N, higher than every published one.")
@click.option("--device-class", "classes", multiple=True, default=("t640",), show_default=True)
@click.option("--min-reader", type=click.IntRange(1), default=1, help="The oldest updater that can apply it.")
@click.option("--security-epoch", type=click.IntRange(0), default=0)
@click.option("--notes", default="", help="A sentence for people.")
@click.option("--level", type=click.IntRange(1, 19), default=6, show_default=True, help="zstd compression level.")
@click.argument("artifacts", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
def publish(
    repository: Path, keys_: Path, version: str, classes: tuple[str, ...], min_reader: int, security_epoch: int,
    notes: str, level: int, artifacts: tuple[Path, ...],
) -> None:  # fmt: skip
    """Publish a build: ARTIFACTS are its data, verity and UKI files, or a directory with them."""
    with spoken_errors():
        found = collect(artifacts, version)
        description = Description(version, classes, min_reader, security_epoch, notes)
        with Console(stderr=True).status(f"Compressing and signing {version}"):
            done = Repository(repository, keys_, time.time()).publish(description, found, level)
        click.echo(f"{done.version} is published for {', '.join(done.device_classes)}: {done.length} bytes to fetch")


@main.command()
@repository_options
def renew(repository: Path, keys_: Path) -> None:
    """Sign snapshot and timestamp anew (online keys only), before they expire: from a timer, once a day."""
    with spoken_errors():
        Repository(repository, keys_, time.time()).renew()


@main.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--layout", type=click.Path(path_type=Path, exists=True), required=True, help="image/layout.toml")
def canary(directory: Path, layout: Path) -> None:
    """Make the canary release in DIRECTORY that an image carries for its rehearsal. Needs no keys; reproducible."""
    from appliance_release.canary import CanaryError, make

    with spoken_errors():
        try:
            make(directory, layout)
        except CanaryError as error:
            raise PublishError(str(error)) from error


@main.command()
@click.option("--repository", type=DIRECTORY, required=True)
def verify(repository: Path) -> None:
    """See the repository as a device does: signatures, expiry, and every file's hash."""
    with spoken_errors():
        with Console(stderr=True).status("Verifying"):
            problems = Repository(repository, Path(), time.time()).verify()
        for problem in problems:
            click.echo(problem, err=True)
        sys.exit(1 if problems else 0)


@main.command(name="list")
@click.option("--repository", type=DIRECTORY, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_command(repository: Path, as_json: bool) -> None:
    """Show the published releases."""
    with spoken_errors():
        published = Repository(repository, Path(), time.time()).published()
    if as_json:
        for release in published:
            click.echo(json.dumps(asdict(release), sort_keys=True))
        return
    table = Table("version", "for", "flavour", "MiB", "root hash", box=None)
    for release in published:
        size = f"{release.length / 1048576:.1f}"
        table.add_row(release.version, ", ".join(release.device_classes), release.flavour, size, release.root_hash[:16])
    Console(highlight=False).print(table)


main.add_command(lifeline)
