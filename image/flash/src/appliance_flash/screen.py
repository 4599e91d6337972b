"""What people see: a bar with rate and time left on a terminal, a table of disks; JSON for programs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from appliance_flash.devices import Device

console = Console(stderr=True, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A function to be told step, bytes done and all bytes; each step has a bar of its own."""
    if quiet:
        yield lambda step, done, total: None
        return
    columns = (TextColumn("{task.description:<10}"), BarColumn(), DownloadColumn(binary_units=True),
               TransferSpeedColumn(), TimeRemainingColumn())  # fmt: skip
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as progress:

        def tell(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step.capitalize(), total=total)
            progress.update(tasks[step], completed=done)

        yield tell


def size(count: int) -> str:
    """A disk's size as its label says it."""
    return f"{count / 1e9:.1f} GB" if count < 1e12 else f"{count / 1e12:.1f} TB"


def table(devices: list[Device]) -> Table:
    """The disks of a machine."""
    made = Table(box=None, pad_edge=False)
    for title in ("DEVICE", "SIZE", "MODEL", "ATTACHED BY", "REMOVABLE", "IN USE"):
        made.add_column(title)
    for device in devices:
        used = "this machine runs from it" if device.holds_root else ", ".join(device.mounted)
        made.add_row(str(device.path), size(device.size), device.model, device.transport,
                     "yes" if device.removable else "no", used)  # fmt: skip
    return made
