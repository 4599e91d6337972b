"""The command line: `compliance-agent run | check | status | evidence | enrol | collect | rehearse`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance_agent import __version__, config_file
from compliance_agent.answers import CONFIGURATION, FAILED, OK, USAGE, fail
from compliance_agent.config import Config

if TYPE_CHECKING:
    from compliance_agent.identity import Enrolment, Identity
    from compliance_agent.ledger import Ledger

EXIT_CODES = """\b
Exit codes common to all commands:
  0   done, and all is well
  1   done, and something is not as it should be
  3   could not be done: what it needs is not there; the message says what
  64  the command line is wrong
  78  the configuration is wrong
"""


class Group(click.Group):
    """A group whose help ends with the exit codes."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Exit codes after the commands."""
        formatter.write_paragraph()
        for line in EXIT_CODES.replace("\b\n", "").splitlines():
            formatter.write(line + "\n")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=config_file.DEFAULT_PATH,
    show_default=True,
    help="The configuration file; a missing one is all defaults.",
)
@click.version_option(__version__, prog_name="compliance-agent")
@click.pass_context
def cli(context: click.Context, config_path: Path) -> None:
    """Checks this appliance, writes signed evidence, and answers to Central Command."""
    context.obj = config_path


def strict(context: click.Context) -> Config:
    """The configuration; warnings go to standard error, mistakes end the program."""
    try:
        reading = config_file.load(context.obj)
    except config_file.ConfigError as error:
        fail(str(error), CONFIGURATION)
    for warning in reading.warnings:
        click.echo(f"warning: {warning}", err=True)
    return reading.config


@cli.command()
@click.pass_context
def run(context: click.Context) -> None:
    """Run the service until SIGTERM.

    A mistake in the configuration does not keep the service from running: the key's default is in force, and the
    mistake is told in the journal, in `status` and to Central Command.
    """
    from compliance_agent.main import serve

    serve(context.obj)


@cli.command()
@click.argument("check_ids", nargs=-1, metavar="[CHECK]...")
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
@click.pass_context
def check(context: click.Context, check_ids: tuple[str, ...], as_json: bool) -> None:
    """Run the checks here and now, all or the named ones, and show their verdicts.

    Nothing is sent and no evidence is written. As root, what only root can read is read anew; else the collector's
    last facts are used. Exit code 0: every verdict that counts conforms; 1: one does not.
    """
    from compliance_agent import cli_check

    sys.exit(cli_check.check(strict(context), check_ids, as_json))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Ask the running service how it is doing.

    Exit code 0: running without problems; 1: running, with problems; 3: not running.
    """
    from compliance_agent import cli_status

    sys.exit(cli_status.status(strict(context), as_json))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def rehearse(context: click.Context, as_json: bool) -> None:
    """Walk an update order through this release, with this device's configuration, in a scratch directory.

    Nothing real is touched: no request reaches the updater, no evidence is written, nothing is sent. Part of every
    update's trial, and run once a day. Exit code 0: an update order would be carried out; 1: it would not.
    """
    from compliance_agent import cli_rehearse

    sys.exit(cli_rehearse.run(context.obj, as_json))


@cli.command()
@click.option("--url", required=True, help="Central Command's address, https://…")
@click.option("--code", required=True, help="The one-time code that Central Command gave out for this device.")
@click.option("--ca-file", type=click.Path(path_type=Path), help="PEM file of the authority behind the address.")
@click.option("--again", is_flag=True, help="Enrol although the device is enrolled already.")
@click.option("--json", "as_json", is_flag=True, help="Print the enrolment as JSON.")
@click.pass_context
def enrol(context: click.Context, url: str, code: str, ca_file: Path | None, again: bool, as_json: bool) -> None:
    """Make this device a member of a site.

    The device makes its own key; the private half never leaves it. A running service takes the enrolment up within
    seconds. Exit code 0: enrolled; 1: Central Command refused; 3: it was not reached, or the state directory is not
    writable.
    """
    from compliance_agent import cli_enrol

    sys.exit(cli_enrol.enrol(strict(context), url, code, ca_file, again, as_json))


@cli.command()
@click.option("--output", type=click.Path(path_type=Path), help="Where to write; paths.facts when not given.")
@click.pass_context
def collect(context: click.Context, output: Path | None) -> None:
    """Write down what only root can read, for the unprivileged service. Run by compliance-agent-collect.service."""
    from compliance_agent import collect as collector

    path = output or Path(config_file.load_leniently(context.obj).config.paths.facts)
    try:
        collector.write(collector.collect(before=collector.earlier(path)), path)
    except OSError as error:
        fail(f"{path}: {error.strerror or error}; run it as root, or start compliance-agent-collect.service")


@cli.group(cls=Group)
def evidence() -> None:
    """Look at, export and verify the evidence on this device. Works without the service, too."""


@evidence.command("list")
@click.option("--limit", type=click.IntRange(1, 10000), default=20, show_default=True, help="How many, newest first.")
@click.option("--before", type=click.IntRange(1), help="Only bundles before this sequence number.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.pass_context
def evidence_list(context: click.Context, limit: int, before: int | None, as_json: bool) -> None:
    """List bundles, newest first."""
    from compliance_agent import cli_evidence

    ledger, _, enrolment = books(context)
    cli_evidence.show_list(ledger, enrolment, limit, before, as_json)


@evidence.command("show")
@click.argument("sequence", type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print the signed envelope as it is sent.")
@click.pass_context
def evidence_show(context: click.Context, sequence: int, as_json: bool) -> None:
    """Show one bundle. Exit code 1: there is none with that number here."""
    from compliance_agent import cli_evidence

    ledger, _, enrolment = books(context)
    sys.exit(cli_evidence.show_one(ledger, enrolment, sequence, as_json))


@evidence.command("export")
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--first", type=click.IntRange(1), default=1, help="First sequence number.")
@click.option("--last", type=click.IntRange(1), help="Last sequence number.")
@click.pass_context
def evidence_export(context: click.Context, output: Path, first: int, last: int | None) -> None:
    """Write bundles to a file that `evidence verify FILE` reads anywhere."""
    from compliance_agent import cli_evidence

    ledger, identity, enrolment = books(context)
    cli_evidence.export(ledger, identity, enrolment, output, first, last)


@evidence.command("verify")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--public-key", help="The device's public key (base64) as Central Command knows it; pins the signature.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.pass_context
def evidence_verify(context: click.Context, file: Path | None, public_key: str | None, as_json: bool) -> None:
    """Verify the evidence of this device, or an exported FILE; needs no network.

    \b
    Exit codes of this command:
      0  every bundle is signed, canonical and in its place
      1  tampered with: a signature, a link or the form does not hold
      2  incomplete: bundles are missing or doubled
      3  unverifiable: no key, no evidence, or not readable
    """
    from compliance_agent import cli_evidence

    if file is not None:
        sys.exit(cli_evidence.verify_file(file, public_key, as_json))
    ledger, identity, enrolment = books(context)
    sys.exit(cli_evidence.verify_here(ledger, identity, enrolment, public_key, as_json))


def books(context: click.Context) -> tuple[Ledger, Identity, Enrolment]:
    """The ledger on this device, read only, and whose it is."""
    from compliance_agent.identity import Identity, IdentityError, become_owner
    from compliance_agent.ledger import Ledger

    config = strict(context)
    identity = Identity(config.state)
    try:
        become_owner(config.state)
        enrolment = identity.enrolment()
    except IdentityError as error:
        fail(str(error))
    if enrolment is None:
        fail("the device is not enrolled, so it has no evidence yet; see `compliance-agent enrol --help`")
    return Ledger(config.state / "evidence.db", read_only=True), identity, enrolment


def main() -> None:
    """Entry point: like click's own, but a wrong command line exits with 64, since 2 has a meaning here."""
    from compliance_agent.database import StoreError

    try:
        code = cli.main(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(USAGE)
    except click.ClickException as error:
        error.show()
        sys.exit(FAILED)
    except click.Abort:
        sys.exit(130)
    except StoreError as error:
        fail(str(error))
    sys.exit(code if isinstance(code, int) else OK)
