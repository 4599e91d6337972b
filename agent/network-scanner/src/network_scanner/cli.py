"""The command line: `scan` for a person in front of a network, `run` for the service, and the talk with it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from appliance_protocol.inventory import Device, ScannerStatus, ScanSummary
from network_scanner import VERSION
from network_scanner.config import DEFAULT_PATH, Config, ConfigError, Loaded, load
from network_scanner.pacer import LIMIT_ALL

EXIT_CODES = """\b
Exit codes:
  0  done
  1  the scan started and then failed (link down, nothing could be sent)
  2  wrong arguments or configuration
  3  no permission for raw packets (run as root or with CAP_NET_RAW)
  4  the interface or network cannot be scanned
  5  the service cannot be reached
"""


def fail(code: int, message: str) -> NoReturn:
    """Say what went wrong, and leave with `code`."""
    click.echo(f"network-scanner: {message}", err=True)
    sys.exit(code)


def read_config(path: Path | None) -> Loaded:
    """The configuration at `path`, else the installed one, else the defaults. Warnings go to stderr."""
    if path is None and not DEFAULT_PATH.exists():
        return Loaded(Config())
    try:
        loaded = load(path or DEFAULT_PATH)
    except ConfigError as error:
        fail(2, str(error))
    for warning in loaded.warnings:
        click.echo(f"network-scanner: {warning}", err=True)
    return loaded


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION)
def main() -> None:
    """A gentle inventory of a clinic's network: at most 100 packets a second, never a byte to a printer."""


@main.command(epilog=EXIT_CODES)
@click.argument("cidr")
@click.option("--interface", required=True, help="Network interface to scan on.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--rate", default=LIMIT_ALL, show_default=True, type=click.IntRange(10, LIMIT_ALL),
              help="Packets a second at most, in all.")
@click.option("--listen", default=2.0, show_default=True, help="Seconds to listen before anything is sent.")
@click.option("--sweep-only", is_flag=True, help="Only ask who is there (ARP); connect to nothing.")
@click.option("--config", type=click.Path(path_type=Path), help=f"Configuration [default: {DEFAULT_PATH}].")
@click.option("--store", type=click.Path(path_type=Path),
              help="Device store whose policies and exclusions to honour [default: the service's].")
def scan(
    cidr: str, interface: str, as_json: bool, rate: int, listen: float, sweep_only: bool, config: Path | None,
    store: Path | None,
) -> None:
    """Scan the network CIDR once and print its devices. Nothing is stored; exclusions are honoured."""
    from network_scanner import oneshot  # heavy parts only where they are needed

    try:
        network = ipaddress.IPv4Network(cidr, strict=False)
    except ValueError as error:
        fail(2, f"{cidr!r} is not an IPv4 network such as 192.168.1.0/24 ({error})")
    settings = read_config(config).config
    options = oneshot.Options(network, interface, rate, max(0.0, min(listen, 600.0)), not sweep_only, store)
    try:
        summary, devices = oneshot.run(options, settings, quiet=as_json)
    except oneshot.ScanProblem as problem:
        fail(problem.code, str(problem))
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins({"scan": summary, "devices": devices}), indent=1))
    else:
        oneshot.show(summary, devices)
    if summary.error:
        fail(1, summary.error)


@main.command(epilog=EXIT_CODES)
@click.option("--config", type=click.Path(path_type=Path), help=f"Configuration [default: {DEFAULT_PATH}].")
def run(config: Path | None) -> None:
    """Run the service: listen always, sweep and scan by the schedule, answer on the local socket."""
    from network_scanner import serve

    loaded = read_config(config)
    try:
        asyncio.run(serve.serve(loaded))
    except serve.ServiceError as error:
        fail(error.code, str(error))


def _ask(method: str, resource: str, model: Any, socket: Path, body: object = None) -> Any:
    from appliance_protocol.local import LocalServiceError, request  # not for the service: it brings an HTTP client

    try:
        return request(socket, method, resource, model, body=body)
    except LocalServiceError as error:
        fail(5, f"{error}\nTry: systemctl status network-scanner")


_SOCKET = click.option("--socket", default=Config.socket, type=click.Path(path_type=Path), show_default=True)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@main.command(epilog=EXIT_CODES)
@_SOCKET
@_JSON
def devices(socket: Path, as_json: bool) -> None:
    """List the devices the service knows."""
    found = _ask("GET", "/v1/devices", list[Device], socket)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=1))
    else:
        from network_scanner import oneshot

        oneshot.show_devices(found)


@main.command(epilog=EXIT_CODES)
@_SOCKET
@_JSON
def status(socket: Path, as_json: bool) -> None:
    """Say how the service is doing."""
    found = _ask("GET", "/v1/status", ScannerStatus, socket)
    last = _ask("GET", "/v1/scans?limit=1", list[ScanSummary], socket)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=1))
        return
    state = "paused" if found.paused else "scanning" if found.scanning else "listening"
    click.echo(f"{state} on {found.interface or 'no interface'} ({found.network or 'no network'})")
    click.echo(f"{found.device_count} devices")
    if last:
        failed = f", failed: {last[0].error}" if last[0].error else ""
        click.echo(f"last scan: {last[0].hosts_up} hosts up, {last[0].packets_sent} packets sent{failed}")
    for problem in found.problems:
        click.echo(f"! {problem}")


@main.command(epilog=EXIT_CODES)
@_SOCKET
@click.option("--minutes", type=click.IntRange(1, 7 * 1440), help="Resume by itself after so many minutes.")
def pause(socket: Path, minutes: int | None) -> None:
    """Send nothing any more, at once, until `resume`. Listening goes on."""
    body = {"paused": True, **({"minutes": minutes} if minutes else {})}
    _ask("PUT", "/v1/pause", ScannerStatus, socket, body)
    click.echo("paused" + (f" for {minutes} minutes" if minutes else "; `network-scanner resume` ends it"))


@main.command(epilog=EXIT_CODES)
@_SOCKET
def resume(socket: Path) -> None:
    """End a pause."""
    _ask("PUT", "/v1/pause", ScannerStatus, socket, {"paused": False})
    click.echo("resumed")


if __name__ == "__main__":
    main()
