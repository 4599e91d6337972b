"""The command line `appliance-release`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from appliance_release import keys, publishing, rotation, verifying
from appliance_release.artifacts import collect
from appliance_release.lifeline import lifeline
from appliance_release.options import (
    DIRECTORY,
    FILE,
    class_option,
    counts_of,
    description_options,
    downgrade_of,
    json_option,
    opened,
    passphrase_of,
    repository_options,
    say,
    spoken_errors,
    watched,
)
from appliance_release.releases import Description, Published, PublishError
from appliance_release.repository import Repository

EPILOG = """
\b
Exit codes:
  0  done; `verify`: nothing wrong
  1  `verify` found something wrong
  2  misuse: wrong arguments, missing keys, or what must not be published; nothing has changed
"""


@click.group(epilog=EPILOG)
@click.version_option(package_name="central-command")
def main() -> None:
    """Publish releases of the appliance: signed metadata over static files, for any web server."""


# -- keys -------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--count", "counts", multiple=True, metavar="ROLE=N", help="How many keys a role gets; repeat. Default: 1."
)
@click.option("--passphrase-file", type=FILE, help="Encrypt the offline keys with its first line.")
@click.option("--passphrase", "ask", is_flag=True, help="Ask for a passphrase to encrypt the offline keys with.")
@json_option
def keygen(directory: Path, counts: tuple[str, ...], passphrase_file: Path | None, ask: bool, as_json: bool) -> None:
    """Make the keys of a new repository in DIRECTORY: offline/ (root, targets) and online/ (snapshot, timestamp)."""
    with spoken_errors():
        passphrase = passphrase_of(passphrase_file)
        if ask:
            passphrase = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True).encode()
        made = [str(path) for path in keys.generate(directory, counts_of(counts, "--count"), passphrase)]
        say({"keys": made}, "\n".join(made), as_json)
        click.echo(f"Move {directory / 'offline'} to a medium that is kept in a safe; it signs releases.", err=True)


@main.command(name="keys")
@repository_options
@json_option
def keys_command(
    repository: Path, keys_: Path, offline: Path | None, passphrase_file: Path | None, as_json: bool
) -> None:  # fmt: skip
    """Show which keys may sign for each role, how many are needed, and which lie here."""
    with spoken_errors():
        opened_ = opened(repository, keys_, offline, passphrase_file)
        shown = [{"role": role, **facts} for role, facts in rotation.overview(opened_).items()]
    if as_json:
        click.echo(json.dumps({"roles": shown}, sort_keys=True))
        return
    table = Table("role", "needed", "key", "file", box=None)
    for entry in shown:
        for keyid, file in entry["keys"].items():
            table.add_row(entry["role"], str(entry["threshold"]), keyid[:16], file or "-")
    Console(highlight=False).print(table)


@main.command()
@repository_options
@click.argument("role", type=click.Choice(keys.ROLES))
@click.option("--count", type=click.IntRange(1), help="How many new keys. Default: as many as before.")
@click.option("--threshold", type=click.IntRange(0), default=0, help="How many must sign. Default: as many as before.")
@json_option
def rotate(
    repository: Path, keys_: Path, offline: Path | None, passphrase_file: Path | None, role: str, count: int | None,
    threshold: int, as_json: bool,
) -> None:  # fmt: skip
    """Replace the keys of ROLE by new ones, in a new root that enough old (and new) root keys sign."""
    with spoken_errors():
        done = rotation.rotate(opened(repository, keys_, offline, passphrase_file), role, count or 0, threshold)
        say(
            done.document(),
            f"{done.root.name} names {len(done.made)} new {role} key(s): {', '.join(map(str, done.made))}",
            as_json,
        )
        for path in done.retired:
            click.echo(f"{path} signs nothing any more", err=True)


# -- the repository ---------------------------------------------------------------------------------------------------


@main.command()
@repository_options
@click.option("--threshold", "thresholds", multiple=True, metavar="ROLE=N", help="How many of a role's keys must sign.")
@json_option
def init(
    repository: Path, keys_: Path, offline: Path | None, passphrase_file: Path | None, thresholds: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Make a new, empty repository."""
    with spoken_errors():
        made = opened(repository, keys_, offline, passphrase_file)
        trusted = made.init(counts_of(thresholds, "--threshold"))
        sentence = f"{trusted} is the trusted root: ship it as share/appliance-update/root.json in every image"
        say({"trusted_root": str(trusted)}, sentence, as_json)


@main.command()
@repository_options
@click.option("--version", required=True, help="YYYY.MM.N, higher than every published one.")
@click.option("--device-class", "classes", multiple=True, default=("t640",), show_default=True)
@click.option("--min-reader", type=click.IntRange(1), default=1, help="The oldest updater that can apply it.")
@click.option("--reader", type=click.IntRange(0), default=0, help="The updater inside it. Default: this publisher's.")
@click.option("--stepping-stone", is_flag=True, help="Its updater reads what comes after it; it is a way for old ones.")
@click.option(
    "--epoch",
    "--security-epoch",
    "epoch",
    type=click.IntRange(0),
    default=0,
    help="Devices that proved a release of a higher epoch refuse it.",
)
@description_options
@click.option("--salt", default="", help="Draws the cohort anew. Default: the version.")
@click.option("--chunks", is_flag=True, help="Make chunk indexes, so that devices fetch what changed.")
@click.option("--unproven", is_flag=True, help="Publish it although devices in the field would find no way to it.")
@click.option("--notes", default="", help="A sentence for people.")
@click.option("--level", type=click.IntRange(1, 19), default=6, show_default=True, help="zstd compression level.")
@json_option
@click.argument("artifacts", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
def publish(
    repository: Path, keys_: Path, offline: Path | None, passphrase_file: Path | None, version: str,
    classes: tuple[str, ...], min_reader: int, reader: int, stepping_stone: bool, epoch: int,
    from_versions: tuple[str, ...], cohort: int | None, downgrade_from: tuple[str, ...], downgrade_until: str | None,
    salt: str, chunks: bool, unproven: bool, notes: str, level: int, as_json: bool, artifacts: tuple[Path, ...],
) -> None:  # fmt: skip
    """Publish a build: ARTIFACTS are its data, verity and UKI files, or a directory with them."""
    with spoken_errors():
        found = collect(artifacts, version)
        description = Description(
            version, classes, min_reader, epoch, notes, reader, stepping_stone, from_versions,
            100 if cohort is None else cohort, salt, downgrade_of(downgrade_from, downgrade_until),
        )  # fmt: skip
        with watched(opened(repository, keys_, offline, passphrase_file)) as target:
            done = publishing.publish(target, description, found, level, chunks=chunks, unproven=unproven)
        say(done.document(), f"{done.version} is published for {', '.join(done.device_classes)}: {done.length} bytes "
            "to fetch" + (", less by its chunks" if done.chunked else ""), as_json)  # fmt: skip


@main.command()
@repository_options
@class_option
@description_options
@click.option("--notes", help="A sentence for people.")
@click.option("--unproven", is_flag=True, help="Even when devices would find no way on.")
@json_option
@click.argument("version")
def amend(
    repository: Path, keys_: Path, offline: Path | None, passphrase_file: Path | None, device_class: str,
    from_versions: tuple[str, ...], cohort: int | None, downgrade_from: tuple[str, ...], downgrade_until: str | None,
    notes: str | None, unproven: bool, as_json: bool, version: str,
) -> None:  # fmt: skip
    """Change what is said of VERSION: widen or halt its rollout, add proven versions, allow a downgrade to it."""
    with spoken_errors():
        done = publishing.amend(
            opened(repository, keys_, offline, passphrase_file), version, device_class, cohort=cohort,
            from_versions=from_versions, downgrade=downgrade_of(downgrade_from, downgrade_until), notes=notes,
            unproven=unproven,
        )  # fmt: skip
        say(done.document(), f"{done.version} is offered to {done.cohort} % of the devices", as_json)


@main.command()
@repository_options
@class_option
@click.option("--key", "keyid", help="Revoke this key instead of a version: the beginning of its id.")
@click.option("--reason", default="", help="Kept in the metadata.")
@click.option("--purge", is_flag=True, help="Delete the files that nothing names any more.")
@click.option("--unproven", is_flag=True, help="Even when devices would find no way on.")
@json_option
@click.argument("version", required=False)
def revoke(
    repository: Path, keys_: Path, offline: Path | None, passphrase_file: Path | None, device_class: str,
    keyid: str | None, reason: str, purge: bool, unproven: bool, as_json: bool, version: str | None,
) -> None:  # fmt: skip
    """Take VERSION out, so that no device picks it up any more; or, with --key, a key out of its roles."""
    if bool(version) == bool(keyid):
        raise click.UsageError("Name a VERSION, or a key with --key")
    with spoken_errors():
        opened_ = opened(repository, keys_, offline, passphrase_file)
        if keyid:
            done = rotation.revoke_key(opened_, keyid)
            say(done.document(), f"{done.root.name} no longer names the key {keyid}", as_json)
            return
        gone = publishing.revoke(opened_, str(version), device_class, reason, purge=purge, unproven=unproven)
        document = {"revoked": version, "deleted": [str(path) for path in gone]}
        say(document, f"{version} is no longer offered ({len(gone)} files deleted)", as_json)


@main.command()
@repository_options
@click.option("--targets", is_flag=True, help="The targets metadata too (needs its offline keys).")
@click.option("--root", "root_too", is_flag=True, help="The root too (needs its offline keys).")
@json_option
def renew(
    repository: Path, keys_: Path, offline: Path | None, passphrase_file: Path | None, targets: bool, root_too: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Sign snapshot and timestamp anew (online keys only), before they expire: from a timer, once a day."""
    with spoken_errors():
        opened_ = opened(repository, keys_, offline, passphrase_file)
        if root_too:
            rotation.renew_root(opened_)
        opened_.renew(targets=targets)
        expires = {role: f"{opened_.load(role).signed.expires:%Y-%m-%dT%H:%M:%SZ}" for role in keys.ROLES}
        say({"expires": expires}, "\n".join(f"{role} holds until {until}" for role, until in expires.items()), as_json)


@main.command()
@click.option("--repository", type=DIRECTORY, required=True)
@json_option
def verify(repository: Path, as_json: bool) -> None:
    """See the repository as devices do: every root, signatures, expiry, files, and whether all find their way."""
    with spoken_errors():
        with watched(Repository(repository, Path(), time.time())) as target:
            problems = verifying.problems(target)
        if as_json:
            click.echo(json.dumps({"problems": problems}))
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
            click.echo(json.dumps(release.document(), sort_keys=True))
        return
    table = Table("version", "for", "flavour", "MiB", "offered to", "epoch", "root hash", "", box=None)
    for release in published:
        table.add_row(
            release.version, ", ".join(release.device_classes), release.flavour, f"{release.length / 1048576:.1f}",
            f"{release.cohort} %", str(release.security_epoch), release.root_hash[:16], _remarks(release),
        )  # fmt: skip
    Console(highlight=False).print(table)


def _remarks(release: Published) -> str:
    remarks = []
    if release.stepping_stone:
        remarks.append("stepping stone")
    if release.from_versions:
        remarks.append(f"from {', '.join(release.from_versions)}")
    if release.downgrade:
        remarks.append(f"downgrade from {', '.join(release.downgrade.from_versions)}")
    return "; ".join(remarks)


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


main.add_command(lifeline)
