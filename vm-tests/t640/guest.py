"""The channel into the machine: a virtio serial port with a small shell behind it (guest.sh)."""

from __future__ import annotations

import base64
import itertools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from t640.errors import GuestError, GuestTimeout
from t640.qmp import connect

PORT = "t640.rig"
SCRIPT = Path(__file__).with_name("guest.sh")
_UNIT = """[Unit]
Description=The test rig's shell
ConditionPathExists=!/etc/initrd-release
DefaultDependencies=no
After=systemd-udevd.service local-fs.target
Before=shutdown.target
Conflicts=shutdown.target

[Service]
ExecStart=/bin/sh ${CREDENTIALS_DIRECTORY}/t640.rig
ImportCredential=t640.rig
Restart=on-failure
"""


@dataclass(frozen=True)
class Boot:
    """One start of the machine, as its shell announced it. `uptime` in seconds at that moment."""

    boot_id: str
    version: str
    uptime: float


@dataclass(frozen=True)
class Result:
    """What a command in the machine left behind."""

    status: int
    output: str
    errors: str


def credentials() -> list[str]:
    """The QEMU arguments that bring the shell into an image that knows nothing of it (systemd 256 or later)."""
    values = {
        f"io.systemd.credential.binary:{PORT}": base64.b64encode(SCRIPT.read_bytes()).decode(),
        "io.systemd.credential.binary:systemd.extra-unit.t640-rig.service": base64.b64encode(_UNIT.encode()).decode(),
        "io.systemd.credential:systemd.unit-dropin.sysinit.target~t640-rig": "[Unit]\nWants=t640-rig.service\n",
    }
    return [argument for name, value in values.items() for argument in credential(name, value)]


def credential(name: str, value: str) -> list[str]:
    """One SMBIOS string; QEMU wants commas doubled."""
    return ["-smbios", f"type=11,value={name}={value}".replace(",", ",,").replace("type=11,,", "type=11,", 1)]


class Channel:
    """Speaks with the shell; survives restarts of the machine. `alive` says whether QEMU still runs."""

    def __init__(self, path: Path, alive: Callable[[], bool]) -> None:
        self._alive = alive
        self._socket = connect(path, 20.0)
        self._changed = threading.Condition()
        self._results: dict[str, Result] = {}
        self._boots: list[Boot] = []
        self._taken = 0
        self._prefix = os.urandom(3).hex()
        self._numbers = itertools.count(1)
        self._closed = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self._socket.makefile("rb"):
                self._take(line.decode(errors="replace").split())
        except OSError:
            pass
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self, words: list[str]) -> None:
        with self._changed:
            if len(words) == 4 and words[0].endswith("HELLO"):
                self._boots.append(Boot(words[1], words[2], float(words[3])))
            elif len(words) == 5 and words[0].endswith("DONE"):
                self._results[words[1]] = Result(int(words[2]), _text(words[3]), _text(words[4]))
            self._changed.notify_all()

    @property
    def boots(self) -> list[Boot]:
        """Every start so far, oldest first."""
        with self._changed:
            return list(self._boots)

    def next_boot(self, timeout: float) -> Boot:
        """Wait for the next start nobody has waited for yet. Raises `GuestTimeout` or `GuestError`."""
        with self._changed:
            self._wait(lambda: len(self._boots) > self._taken, timeout, "The machine did not come up")
            self._taken += 1
            return self._boots[self._taken - 1]

    def latest_boot(self) -> Boot | None:
        """The newest start; the ones before it count as waited for."""
        with self._changed:
            self._taken = len(self._boots)
            return self._boots[-1] if self._boots else None

    def run(self, command: str, timeout: float) -> Result:
        """Run a shell command. Raises `GuestTimeout`, or `GuestError` when the machine restarts meanwhile."""
        number = f"{self._prefix}{next(self._numbers)}"
        text = base64.b64encode(command.encode()).decode()
        with self._changed:
            boots = len(self._boots)
            self._socket.sendall(f"{number} {max(1, int(timeout))} {text}\n".encode())
            what = f"The machine did not finish {command[:200]!r}"
            self._wait(lambda: number in self._results or len(self._boots) > boots, timeout + 30, what)
            if number not in self._results:
                raise GuestError(f"The machine restarted while it ran {command[:200]!r}.")
            return self._results.pop(number)

    def _wait(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if self._closed or not self._alive():
                raise GuestError(f"{what}: QEMU has ended.")
            left = end - time.monotonic()
            if left <= 0:
                raise GuestTimeout(f"{what} within {timeout:.0f} s.")
            self._changed.wait(min(left, 1.0))

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()


def _text(word: str) -> str:
    return "" if word == "-" else base64.b64decode(word).decode(errors="replace")
