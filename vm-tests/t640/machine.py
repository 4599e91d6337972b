"""The virtual T640 as an object, with the verbs of the NixOS test driver.

A reboot is nothing special here: the disk, the firmware's variables and the TPM's state stay, and `wait_for_boot`
tells which version came up. Every error ends with the last lines of the console.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import itertools
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from t640 import disk, hardware
from t640.errors import GuestError, GuestTimeout, RigError
from t640.guest import Boot, Channel, Result
from t640.hardware import Hardware
from t640.processes import Process, wait_for
from t640.qmp import Qmp, connect

P = ParamSpec("P")
R = TypeVar("R")

PATIENCE_S = 300
"""How long a verb waits by default. Emulation on a busy machine is slow; nothing here measures speed."""

_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
"""Between two looks; the last one from then on. A look is ten processes inside: under emulation, half a second's work,
and the machine that is looked at too often comes up later."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?=]*[A-Za-z]|\x1b[()][AB0]|[\x00-\x08\x0b-\x1f]")
_CHUNK = 48 * 1024


def _with_console(method: Callable[P, R]) -> Callable[P, R]:
    """Let a verb's guest errors end with the console's last lines, once."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except GuestError as error:
            if "Console:" in str(error):
                raise
            machine = args[0]
            assert isinstance(machine, Machine)
            raise type(error)(f"{error}\n{machine.processors()}\nConsole:\n{machine.console_tail()}") from error

    return wrapped


class Machine:
    """One virtual T640 with its disk, firmware variables and TPM in a folder of its own."""

    def __init__(
        self, work: Path, base_disk: Path, hardware: Hardware | None = None, namespace: str | None = None
    ) -> None:
        self.work = work
        self.hardware = hardware or Hardware()
        self._namespace = namespace
        self._qemu: Process | None = None
        self._tpm: Process | None = None
        self._qmp: Qmp | None = None
        self._channel: Channel | None = None
        self._resumed = False
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "disk.qcow2").exists():
            disk.overlay(_kept(base_disk, work), work / "disk.qcow2")
        self._fresh_variables()

    def _fresh_variables(self) -> None:
        if not (self.work / "variables.qcow2").exists():
            disk.convert(firmware_variables(), self.work / "variables.qcow2")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.crash()

    # -- power ----------------------------------------------------------------------------------------------------

    @property
    def booted(self) -> bool:
        """Whether the power is on."""
        return self._qemu is not None and self._qemu.running

    def start(self, load: str = "") -> None:
        """Switch on (from a snapshot with `load`). Does nothing when it is on."""
        if self.booted:
            return
        for name in ("qmp.sock", "rig.sock", "tpm.sock", "console.sock"):
            (self.work / name).unlink(missing_ok=True)
        if self.hardware.tpm:
            self._tpm = Process(hardware.swtpm_command(self.work), log=self.work / "tpm.log")
            wait_for((self.work / "tpm.sock").exists, timeout=20, what="The start of the software TPM")
        line = hardware.command_line(self.hardware, self.work, load=load)
        self._resumed = bool(load)
        self._qemu = Process(line, log=self.work / "qemu.log", namespace=self._namespace)
        try:
            self._channel = Channel(self.work / "rig.sock", lambda: self.booted)
            self._qmp = Qmp(self.work / "qmp.sock")
        except RigError as error:
            raise RigError(f"QEMU did not start: {error}\n{self._qemu.tail()}") from error

    @_with_console
    def wait_for_boot(self, timeout: float = 2 * PATIENCE_S) -> Boot:
        """Wait for the next start of the system inside. Raises `GuestTimeout`."""
        return self.channel.next_boot(timeout)

    def crash(self) -> None:
        """Pull the plug. Safe when it is off."""
        for connection in (self._channel, self._qmp):
            if connection is not None:
                connection.close()
        for process in (self._qemu, self._tpm):
            if process is not None:
                process.stop(grace=0.5)
        self._qemu = self._tpm = self._qmp = self._channel = None

    @_with_console
    def shutdown(self, timeout: float = PATIENCE_S) -> None:
        """Switch off in an orderly way and wait. Raises `GuestTimeout`."""
        if not self.booted:
            return
        self._end_with("systemctl --no-block poweroff")
        self.wait_for_shutdown(timeout)

    @_with_console
    def wait_for_shutdown(self, timeout: float = PATIENCE_S) -> None:
        """Wait until the machine is off. Raises `GuestTimeout`."""
        try:
            wait_for(lambda: not self.booted, timeout=timeout, what="The machine's power-off")
        except RigError as error:
            raise GuestTimeout(str(error)) from error
        self.crash()

    @_with_console
    def reboot(self, timeout: float = 2 * PATIENCE_S) -> Boot:
        """Restart the system inside in an orderly way and wait for it."""
        self.channel.latest_boot()
        self.begin_reboot()
        return self.wait_for_boot(timeout)

    def begin_reboot(self) -> None:
        """Ask the system inside to restart in an orderly way; the boots that follow are the caller's to wait for."""
        self._end_with("systemctl --no-block reboot")

    def _end_with(self, command: str) -> None:
        # The system may be down before it has answered; whether it went down is for the caller to see.
        with contextlib.suppress(GuestError):
            self.run(command, 60)

    def reset(self) -> None:
        """Press the reset button."""
        if self._channel is not None:
            self._channel.latest_boot()
        self.qmp.command("system_reset")

    def set_clock(self, base: str) -> None:
        """Set the hardware clock of a machine that is off (`1970-01-01T00:00:00`, or `utc` for the present)."""
        if self.booted:
            raise RigError("The hardware clock is set while the machine is off.")
        self.hardware = dataclasses.replace(self.hardware, rtc_base=base)

    # -- commands -------------------------------------------------------------------------------------------------

    @property
    def channel(self) -> Channel:
        """The rig's shell inside. Raises `RigError` when the power is off."""
        if self._channel is None:
            raise RigError("The machine is off; start() it first.")
        return self._channel

    @property
    def qmp(self) -> Qmp:
        """QEMU's control socket. Raises `RigError` when the power is off."""
        if self._qmp is None:
            raise RigError("The machine is off; start() it first.")
        return self._qmp

    def run(self, command: str, timeout: float = PATIENCE_S) -> Result:
        """A command's status, output and errors. Raises `GuestTimeout` or `GuestError` (a restart meanwhile)."""
        if not self.channel.boots and not self._resumed:
            self.wait_for_boot()
        return self.channel.run(command, timeout)

    @_with_console
    def execute(self, command: str, timeout: float = PATIENCE_S) -> tuple[int, str]:
        """Status and output of a command, whatever they are."""
        result = self.run(command, timeout)
        return result.status, result.output

    @_with_console
    def succeed(self, *commands: str, timeout: float = PATIENCE_S) -> str:
        """Run commands that must succeed; returns their output. Raises `GuestError`."""
        output = ""
        for command in commands:
            result = self.run(command, timeout)
            if result.status != 0:
                raise GuestError(f"{command!r} failed with {result.status}:\n{result.output}{result.errors}")
            output += result.output
        return output

    @_with_console
    def fail(self, *commands: str, timeout: float = PATIENCE_S) -> str:
        """Run commands that must fail; returns their output. Raises `GuestError`."""
        output = ""
        for command in commands:
            result = self.run(command, timeout)
            if result.status == 0:
                raise GuestError(f"{command!r} succeeded, but it should have failed:\n{result.output}")
            output += result.output
        return output

    def _until(self, wanted: Callable[[Result], bool], command: str, timeout: float, what: str) -> str:
        end = time.monotonic() + timeout
        result = Result(-1, "", "")
        pauses = _pauses()
        while True:
            left = end - time.monotonic()
            try:
                result = self.run(command, max(left, 5))
            except GuestError as error:
                if not self.booted or left <= 0:
                    raise
                result = Result(-1, "", str(error))
            else:
                if wanted(result):
                    return result.output
            if left <= 0:
                detail = f"{result.output}{result.errors}".strip()
                raise GuestTimeout(f"{command!r} {what} within {timeout:.0f} s. Last: {result.status}\n{detail}")
            time.sleep(next(pauses))

    @_with_console
    def wait_until_succeeds(self, command: str, timeout: float = PATIENCE_S) -> str:
        """Repeat a command until it succeeds. Raises `GuestTimeout`."""
        return self._until(lambda result: result.status == 0, command, timeout, "did not succeed")

    @_with_console
    def wait_until_fails(self, command: str, timeout: float = PATIENCE_S) -> str:
        """Repeat a command until it fails. Raises `GuestTimeout`."""
        return self._until(lambda result: result.status > 0, command, timeout, "did not fail")

    def wait_for_file(self, path: str, timeout: float = PATIENCE_S) -> None:
        """Wait until a path exists in the machine."""
        self.wait_until_succeeds(f"test -e {shlex.quote(path)}", timeout)

    def wait_for_open_port(self, port: int, timeout: float = PATIENCE_S) -> None:
        """Wait until something listens on a TCP port of the machine."""
        self.wait_until_succeeds(f"ss -Htln 'sport = :{port}' | grep -q .", timeout)

    def wait_for_closed_port(self, port: int, timeout: float = PATIENCE_S) -> None:
        """Wait until nothing listens on a TCP port of the machine."""
        self.wait_until_fails(f"ss -Htln 'sport = :{port}' | grep -q .", timeout)

    # -- units ----------------------------------------------------------------------------------------------------

    def systemctl(self, command: str) -> tuple[int, str]:
        """Run systemctl."""
        return self.execute(f"systemctl --no-pager {command}")

    def get_unit_info(self, unit: str) -> dict[str, str]:
        """All properties of a unit."""
        text = self.succeed(f"systemctl --no-pager show {shlex.quote(unit)}")
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def get_unit_property(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.succeed(f"systemctl --no-pager show -P {shlex.quote(name)} {shlex.quote(unit)}").strip()

    def require_unit_state(self, unit: str, state: str = "active") -> None:
        """Check a unit's state now. Raises `GuestError` with the end of its journal."""
        found = self.get_unit_property(unit, "ActiveState")
        if found != state:
            raise GuestError(f"{unit} is {found}, expected {state}.\n{self.unit_log(unit)}")

    def unit_log(self, unit: str, lines: int = 25) -> str:
        """The end of a unit's journal in this boot."""
        return self.execute(f"journalctl --no-pager -o cat -b -n {lines} -u {shlex.quote(unit)}")[1]

    @_with_console
    def wait_for_unit(self, unit: str, timeout: float = PATIENCE_S) -> None:
        """Wait until a unit is active. Raises `GuestError` at once when it failed or nothing will start it."""
        end = time.monotonic() + timeout
        idle = 0
        pauses = _pauses()
        while time.monotonic() < end:
            state = self.get_unit_property(unit, "ActiveState")
            if state == "active":
                return
            if state == "failed":
                raise GuestError(f"{unit} failed.\n{self.unit_log(unit)}")
            waits = state != "inactive" or self.execute("systemctl list-jobs --no-legend")[1].strip()
            idle = 0 if waits else idle + 1
            if idle >= 3:
                raise GuestError(f"{unit} is inactive and no job is queued that would start it.")
            time.sleep(next(pauses))
        raise GuestTimeout(f"{unit} was not active within {timeout:.0f} s.\n{self.unit_log(unit)}")

    # -- files ----------------------------------------------------------------------------------------------------

    def copy_from_host(self, source: Path, target: str) -> None:
        """Put a file into the machine."""
        quoted = shlex.quote(target)
        self.succeed(f"mkdir -p $(dirname {quoted}) && : >{quoted}")
        content = source.read_bytes()
        for start in range(0, len(content), _CHUNK):
            piece = base64.b64encode(content[start : start + _CHUNK]).decode()
            self.succeed(f"echo {piece} | base64 -d >>{quoted}")

    def copy_from_machine(self, source: str, target: Path) -> None:
        """Get a file out of the machine."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(base64.b64decode(self.succeed(f"base64 -w0 {shlex.quote(source)}")))

    # -- the world around -----------------------------------------------------------------------------------------

    def block(self) -> None:
        """Pull the network cable."""
        self.qmp.command("set_link", name="nic", up=False)

    def unblock(self) -> None:
        """Plug the network cable in again."""
        self.qmp.command("set_link", name="nic", up=True)

    def console(self) -> str:
        """Everything the serial console said, without escape sequences."""
        path = self.work / "console.log"
        return _ESCAPES.sub("", path.read_text(errors="replace")) if path.exists() else ""

    def processors(self) -> str:
        """Where each processor is (RIP; HLT=1 when it waits): tells a dead kernel from a system that does nothing."""
        try:
            registers = self.qmp.human("info registers -a")
        except RigError as error:
            return f"Processors: not known: {error}"
        return "Processors: " + "; ".join(re.findall(r"CPU#\d+|RIP=\w+|CPL=\d|HLT=\d", registers))

    def console_tail(self, lines: int = 25) -> str:
        """The console's last lines that are not empty."""
        return "\n".join([line for line in self.console().splitlines() if line.strip()][-lines:])

    @_with_console
    def wait_for_console_text(self, pattern: str, timeout: float = PATIENCE_S) -> re.Match[str]:
        """Wait until the console has said something (a regular expression). Raises `GuestTimeout`."""
        found = self._console_matches(pattern, timeout)
        for match in found:
            return match
        raise GuestTimeout(f"The console did not say {pattern!r} within {timeout:.0f} s.")

    def _console_matches(self, pattern: str, timeout: float) -> Iterator[re.Match[str]]:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            match = re.search(pattern, self.console())
            if match:
                yield match
            time.sleep(0.2)

    def type(self, text: str) -> None:
        """Type on the serial console."""
        with contextlib.closing(connect(self.work / "console.sock", 20.0)) as line:
            line.sendall(text.encode())
            # Until the machine has taken it in: it echoes what is typed. Then nobody listens again, as before.
            line.settimeout(1.0)
            with contextlib.suppress(OSError):
                while line.recv(4096):
                    pass

    # -- snapshots ------------------------------------------------------------------------------------------------

    def snapshot(self, name: str) -> None:
        """Keep the running machine as it is now: memory, disk, firmware variables, TPM."""
        self.qmp.human(f"savevm {name}")

    def restore(self, name: str) -> None:
        """Go back to a snapshot, whether the power is on or off. The clock inside is then behind.

        In a new QEMU: an old one goes on counting its time stamp counter, and for the system inside minutes pass in an
        instant; its watchdogs bark.
        """
        self.crash()
        self.start(load=name)

    def written(self) -> int:
        """Bytes that the system inside has given to its disk since the power is on."""
        statistics = self.qmp.command("query-blockstats")
        return sum(int(each["stats"]["wr_bytes"]) for each in statistics if each["device"] == "disk")

    def forget(self) -> None:
        """Switch off and delete the machine's files."""
        self.crash()
        shutil.rmtree(self.work, ignore_errors=True)


def _pauses() -> Iterator[float]:
    return itertools.chain(_PAUSES_S, itertools.repeat(_PAUSES_S[-1]))


def _kept(base_disk: Path, work: Path) -> Path:
    """The base under a second name of our own: a build that forgets older images must not pull it away."""
    own = work / "base.raw"
    try:
        own.hardlink_to(base_disk)
    except OSError:
        return base_disk
    return own


def firmware_variables() -> Path:
    """The firmware's empty variables. Raises `Missing`."""
    return hardware.firmware()[1]
