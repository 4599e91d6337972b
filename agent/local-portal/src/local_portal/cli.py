"""`local-portal`: the service and the few things a technician does from the console."""

from __future__ import annotations

import json
import os
import ssl
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click

from local_portal import __version__
from local_portal.certificates import CertificateError, Certificates
from local_portal.config import DEFAULT_PATH, Config, ConfigError, load
from local_portal.store import Store, StoreError

EXIT_FAILED, EXIT_CLAIMED, EXIT_NOT_STARTED, EXIT_CONFIG = 1, 3, 4, 78
_CODES = """
\b
Exit codes:
  0   done
  1   it could not be done; the message says why
  2   the command line is wrong
  3   the appliance has been claimed already
  4   the portal has never been started here
  78  the configuration cannot be used
"""


@click.group(epilog=_CODES)
@click.option("--config", "path", type=click.Path(path_type=Path), default=DEFAULT_PATH, show_default=True,
              help="Settings (TOML); a missing file means the defaults.")
@click.version_option(__version__)
@click.pass_context
def main(context: click.Context, path: Path) -> None:
    """The appliance's own pages for the clinic, over HTTPS."""
    try:
        context.obj, warnings = load(path)
    except ConfigError as error:
        _fail(str(error), EXIT_CONFIG)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


@main.command(epilog=_CODES)
@click.pass_obj
def run(config: Config) -> None:
    """Serve the portal until told to stop. systemd runs this."""
    from local_portal import service  # here, so that the other commands start without the web stack

    try:
        service.run(config)
    except (CertificateError, StoreError, OSError) as error:
        _fail(str(error), EXIT_FAILED)


@main.command("claim-code", epilog=_CODES)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def claim_code(config: Config, as_json: bool) -> None:
    """Print the code with which the first person takes the appliance into use."""
    store = _open_store(config)
    if store.claimed():
        _fail("The appliance has been claimed already. `local-portal reset-claim` removes its accounts and makes a new "
              "code.", EXIT_CLAIMED)
    code = store.claim_code()
    click.echo(json.dumps({"claim_code": code}) if as_json else code)


@main.command("reset-claim", epilog=_CODES)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def reset_claim(config: Config, yes: bool, as_json: bool) -> None:
    """Remove every account, log everybody out and make a new claim code."""
    store = _open_store(config)
    if not yes:
        click.confirm("Remove every account of this portal and make a new claim code?", abort=True, err=True)
    code = store.reset_claim()
    click.echo(json.dumps({"claim_code": code}) if as_json else f"Accounts removed. New claim code: {code}")


@main.command(epilog=_CODES)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--pem", is_flag=True, help="Print the certificate itself.")
@click.pass_obj
def ca(config: Config, as_json: bool, pem: bool) -> None:
    """Show the certificate authority of this site: file and fingerprint, to compare before trusting it."""
    _as_owner(config)
    certificates = Certificates(config.state)
    try:
        shown = certificates.fingerprint()
    except CertificateError as error:
        _fail(f"{error}; start local-portal.service once", EXIT_NOT_STARTED)
    if pem:
        click.echo(certificates.ca.read_text(), nl=False)
    elif as_json:
        click.echo(json.dumps({"file": str(certificates.ca), "sha256": shown}))
    else:
        click.echo(f"{certificates.ca}\nSHA-256 {shown}")


@main.command(epilog=_CODES)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--address", default="127.0.0.1:443", show_default=True, help="Where the portal listens.")
@click.pass_obj
def status(config: Config, as_json: bool, address: str) -> None:
    """Say whether the portal answers, whether it was claimed, and how long its certificate holds."""
    facts: dict[str, Any] = {"version": __version__, "address": address}
    store = _open_store(config)
    certificates = Certificates(config.state)
    leaf = certificates.leaf()
    facts |= {"claimed": store.claimed(), "certificate": asdict(leaf) if leaf else None,
              "left_out": list(leaf.left_out) if leaf else []}
    facts["answers"] = _probe(certificates, address)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo(f"answers at {address}: {facts['answers']}\nclaimed: {'yes' if facts['claimed'] else 'no'}")
        click.echo(f"certificate for: {', '.join((*leaf.names.dns, *leaf.names.addresses))}" if leaf
                   else "certificate: none")
    sys.exit(0 if facts["answers"] == "ok" else EXIT_FAILED)


def _probe(certificates: Certificates, address: str) -> str:
    import http.client  # not for the service

    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(certificates.ca))
        connection = http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=5, context=context)
        connection.request("GET", "/healthz", headers={"Host": "localhost"})
        answer = connection.getresponse()
        return answer.read(100).decode("ascii", "replace") if answer.status == 200 else f"status {answer.status}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no: {error}"


def _open_store(config: Config) -> Store:
    _as_owner(config)
    if not (config.state / "portal.db").exists():
        _fail(f"{config.state}: the portal has never been started here, or its state is not readable to you; "
              "start local-portal.service, then run this as root", EXIT_NOT_STARTED)
    try:
        return Store(config.state)
    except StoreError as error:
        _fail(str(error), EXIT_FAILED)


def _as_owner(config: Config) -> None:
    """As root, become the service's user: a database file that root made would shut the service out."""
    if os.geteuid() != 0:
        return
    try:
        owner = config.state.stat()
    except OSError:
        return
    become: list[tuple[Callable[[int], None], int]] = [(os.setgid, owner.st_gid), (os.setuid, owner.st_uid)]
    if owner.st_uid != 0:
        os.setgroups([])
        for change, number in become:
            change(number)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)
