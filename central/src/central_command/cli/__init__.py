"""What an administrator types. One file a group of commands."""

from __future__ import annotations

from pathlib import Path

import click

from central_command.cli import devices, evidence, people, server
from central_command.cli.common import Context

_HELP = """Central Command, the fleet server.

\b
Exit codes: 0 done; 1 refused, failed, or (evidence verify) tampered with;
2 wrong usage, or (evidence verify) incomplete; 3 database or key not usable,
or (evidence verify) nothing that could be verified.
"""


@click.group(help=_HELP)
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="Instead of /etc/central-command/config.toml."
)
@click.option("--data", help="Data directory: server key, and the database unless DATABASE_URL names another.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.version_option(package_name="central-command")
@click.pass_context
def main(context: click.Context, config: Path | None, data: str | None, as_json: bool) -> None:
    """See `_HELP`."""
    context.obj = Context(config, data, as_json)


for command in (
    server.serve, server.migrate_command, people.user, people.token, devices.site, devices.enrolment_code,
    devices.device, devices.order, evidence.evidence,
):
    main.add_command(command)
