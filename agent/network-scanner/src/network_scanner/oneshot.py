"""The `scan` command: one scan in the foreground, with progress for a person and exclusions honoured."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from appliance_protocol.inventory import Device, ScanSummary
from network_scanner.addresses import Network4
from network_scanner.anomalies import Watch
from network_scanner.asset import Asset
from network_scanner.config import Config, Exclusions
from network_scanner.inventory import Inventory
from network_scanner.link import LinkError, open_link
from network_scanner.listener import Listener
from network_scanner.oui import OuiError, VendorTable
from network_scanner.pacer import Pacer
from network_scanner.scan import Scanner, sweepable

STAGES = {"listen": "Listening", "sweep": "ARP sweep", "names": "Asking for names", "visits": "Visiting hosts"}


class ScanProblem(RuntimeError):
    """Why a scan could not start; `code` is the exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Options:
    """What the person asked for."""

    network: Network4
    interface: str
    rate: int
    listen: float
    full: bool
    store: Path | None


def run(options: Options, config: Config, *, quiet: bool) -> tuple[ScanSummary, list[Device]]:
    """Scan once. Raises `ScanProblem` when it cannot start."""
    known = _known(options.store, config)
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description:18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console,
        disable=quiet and not console.is_terminal, transient=True,
    ) as bars:
        tasks = {key: bars.add_task(text, total=None, visible=False, start=False) for key, text in STAGES.items()}

        def progress(stage: str, done: int, total: int) -> None:
            task = tasks[stage]
            if done == 0 or not bars.tasks[task].started:
                bars.start_task(task)
            bars.update(task, completed=done, total=max(total, 1), visible=True)

        return asyncio.run(_scan(options, config, known, progress))


async def _scan(
    options: Options, config: Config, known: list[Asset], progress: object
) -> tuple[ScanSummary, list[Device]]:
    try:
        link = open_link(options.interface)
        sweepable(options.network, link)
        listener = Listener(link)
        table = VendorTable.load()
    except LinkError as error:
        raise ScanProblem(3 if "permission" in str(error) else 4, str(error)) from error
    except (OuiError, OSError) as error:
        raise ScanProblem(2, f"vendor table: {error}; reinstall the package") from error
    inventory = Inventory(table.vendor)
    inventory.load(known)
    watch = Watch(inventory, gateway=link.gateway)
    listener.handlers.append(watch.take)
    pacer = Pacer(min(options.rate, config.rate.packets_per_second), config.rate.packets_per_second_per_host)
    listener.asked.append(pacer.record)
    scanner = Scanner(
        link, listener, pacer, inventory, watch, Exclusions.of(config), config.probing, progress,  # type: ignore[arg-type]
    )
    started = set(inventory.assets)
    try:
        await _listen(options.listen, scanner)
        summary = await scanner.run(options.network, full=options.full)
    finally:
        listener.close()
    # What the store knew but this scan did not see is not part of its result.
    assets = inventory.assets.values()
    seen = [item for item in assets if item.id not in started or item.last_seen >= summary.started_at]
    return summary, [item.to_device() for item in sorted(seen, key=_by_address)]


async def _listen(seconds: float, scanner: Scanner) -> None:
    whole = max(int(seconds), 1)
    for second in range(whole):
        scanner.progress("listen", second, whole)
        await asyncio.sleep(seconds / whole)
    scanner.progress("listen", whole, whole)


def _known(store: Path | None, config: Config) -> list[Asset]:
    """Devices of the service's store, for their policies. A store that was named must be readable."""
    path = store or Path(config.state_directory) / "devices.db"
    if store is None and not path.exists():
        return []
    from network_scanner.store import Store, StoreError

    try:
        with contextlib.closing(Store(path, read_only=True)) as opened:
            return opened.load()
    except StoreError as error:
        # Scanning without the exclusions would be the one unforgivable surprise.
        raise ScanProblem(2, f"{error}; its exclusions could not be read, so nothing was sent") from error


def _by_address(asset: Asset) -> tuple[int, ...]:
    address = next((ip for ip in asset.current_ips() if ":" not in ip), "255.255.255.255")
    return tuple(int(part) for part in address.split("."))


def show(summary: ScanSummary, devices: list[Device]) -> None:
    """Print a scan for a person."""
    show_devices(devices)
    seconds = (summary.finished_at or summary.started_at) - summary.started_at
    sys.stdout.write(f"{summary.hosts_up} hosts up, {summary.packets_sent} packets in {seconds:.1f} s\n")


def show_devices(devices: list[Device]) -> None:
    """Print devices as a table; names were chosen by strangers and are shown as plain text."""
    table = Table(box=None, pad_edge=False)
    for title in ("Address", "MAC", "Name", "Vendor", "Class", "Sure", "Policy", "State", "Ports"):
        table.add_column(title, overflow="fold")
    for device in devices:
        row = (
            ", ".join(ip for ip in device.ip_addresses if ":" not in ip), ", ".join(device.mac_addresses), device.name,
            "(randomised)" if device.randomised_mac else device.vendor, device.device_class.value,
            f"{device.confidence:.0%}", device.policy.value, device.presence.value,
            " ".join(str(service.port) for service in device.services),
        )
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
