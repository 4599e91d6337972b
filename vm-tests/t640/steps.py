"""What the rig is doing and for how long: a line per step, with elapsed time, on a terminal and in a log alike."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console

console = Console(stderr=True, highlight=False)
"""Progress goes to stderr, so that `--json` on stdout stays clean."""

_QUIET_FOR_S = 2.0
_LOG_EVERY_S = 15.0


def elapsed(seconds: float) -> str:
    """`12.3 s`, or `2 min 05 s` from a minute on."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


Detail = Callable[[str], None]
"""Tells the running step's latest detail."""


@contextlib.contextmanager
def step(title: str) -> Iterator[Detail]:
    """Show that something goes on. Yields a function that takes a detail ("42 of 60 hosts").

    On a terminal a spinner with the elapsed time; elsewhere (CI) a line every quarter of a minute.
    """
    began = time.monotonic()
    latest = [""]
    done = threading.Event()

    def text() -> str:
        detail = f"  [dim]{latest[0]}[/dim]" if latest[0] else ""
        return f"{title}  [cyan]{elapsed(time.monotonic() - began)}[/cyan]{detail}"

    def in_log() -> None:
        while not done.wait(_LOG_EVERY_S):
            console.print(f"  … {text()}")

    def on_terminal() -> None:
        if done.wait(_QUIET_FOR_S):
            return
        with console.status(text()) as status:
            while not done.wait(0.5):
                status.update(text())

    thread = threading.Thread(target=on_terminal if console.is_terminal else in_log, daemon=True)
    thread.start()
    failed = True
    try:
        yield lambda detail: latest.__setitem__(0, detail)
        failed = False
    finally:
        done.set()
        thread.join()
        mark = "[red]✗[/red]" if failed else "[green]✓[/green]"
        console.print(f"{mark} {text()}")
