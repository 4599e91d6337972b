"""Programs the rig starts: each in a network namespace, each gone when the rig is gone, however that happens."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from t640.errors import RigError


def command_in(namespace: str | None, argv: Sequence[str]) -> list[str]:
    """`argv` inside a network namespace, killed by the kernel when its parent dies."""
    enter = ["nsenter", f"--net=/run/netns/{namespace}", "--"] if namespace else []
    return [*enter, "setpriv", "--pdeathsig", "KILL", "--", *argv]


class Process:
    """A running program with its output in a file. Start it from a thread that lives as long as it shall."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        namespace: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        cwd: Path | None = None,
    ) -> None:
        self.argv = list(argv)
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command_in(namespace, argv), stdin=stdin, stdout=output, stderr=subprocess.STDOUT,
                env=dict(env) if env is not None else None, pass_fds=tuple(pass_fds), cwd=cwd, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The program's process id (the wrappers exec, so it is the program's own)."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    def tail(self, lines: int = 20) -> str:
        """The last lines of its output."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def require_running(self, what: str) -> None:
        """Raise `RigError` with the end of its output when it has ended."""
        if not self.running:
            raise RigError(f"{what} ended with status {self.status}:\n{self.tail()}")

    def wait(self, timeout: float) -> int:
        """Wait for the end. Raises `subprocess.TimeoutExpired`."""
        return self._process.wait(timeout)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a program that has ended already is no error."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def stop(self, grace: float = 5.0) -> None:
        """End it: a polite signal, then a killing one, for its whole session. Safe to call twice."""
        if self.running:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        # Children of a program that was killed outright would stay behind in its process group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            _kill_group(self.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)


def _kill_group(leader: int) -> None:
    import os

    os.killpg(leader, signal.SIGKILL)


def wait_for(condition: object, *, timeout: float, what: str, every: float = 0.1) -> None:
    """Poll a callable until it is true. Raises `RigError` naming `what` after `timeout` seconds."""
    assert callable(condition)
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise RigError(f"{what} did not happen within {timeout:.0f} s.")
        time.sleep(every)
