"""The shell that comes into the machine without being part of its image."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from t640 import guest
from t640.errors import GuestError, GuestTimeout
from t640.guest import Channel


class Guest:
    """The other end of the wire, run by the real script on a socket instead of a serial port."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rig.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(1)
        self.connection: socket.socket | None = None
        self.script = guest.SCRIPT.read_text()
        accepted = threading.Thread(target=self._accept, daemon=True)
        accepted.start()
        self.accepted = accepted

    def _accept(self) -> None:
        self.connection, _ = self.listener.accept()

    def boot(self, folder: Path) -> subprocess.Popen[bytes]:
        self.accepted.join()
        assert self.connection is not None
        # Everything but the device's name and the place of its scratch files is the script that ships.
        text = self.script.replace('exec 3<>"$port"', "exec 3<&0")
        text = text.replace('while [ ! -c "$port" ]; do sleep 0.1; done', "").replace("/run/t640-rig", f"{folder}/rig")
        return subprocess.Popen(["sh", "-c", text], stdin=self.connection.fileno())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[tuple[Guest, Channel]]:
    far = Guest(tmp_path)
    channel = Channel(far.path, lambda: True)
    shell = far.boot(tmp_path)
    yield far, channel
    channel.close()
    shell.kill()
    shell.wait()


def test_a_boot_is_announced_once(machine: tuple[Guest, Channel]) -> None:
    boot = machine[1].next_boot(10)
    assert len(boot.boot_id) == 36
    assert boot.uptime > 0


def test_status_output_and_errors_come_back_apart(machine: tuple[Guest, Channel]) -> None:
    machine[1].next_boot(10)
    result = machine[1].run("echo out; echo err >&2; exit 3", 10)
    assert (result.status, result.output, result.errors) == (3, "out\n", "err\n")


def test_quotes_newlines_and_other_alphabets_survive(machine: tuple[Guest, Channel]) -> None:
    machine[1].next_boot(10)
    assert machine[1].run("printf '%s' \"it's\n“Ωμέγα”\"", 10).output == "it's\n“Ωμέγα”"


def test_a_command_that_takes_too_long_is_ended_in_the_machine(machine: tuple[Guest, Channel]) -> None:
    machine[1].next_boot(10)
    assert machine[1].run("sleep 30", 1).status == 124


def test_a_restart_during_a_command_is_an_error_and_not_a_hang(machine: tuple[Guest, Channel]) -> None:
    far, channel = machine
    channel.next_boot(10)
    assert far.connection is not None
    threading.Timer(0.3, far.connection.sendall, [b"HELLO other-boot 2026.11.2 3.5\n"]).start()
    with pytest.raises(GuestError, match="restarted"):
        channel.run("sleep 5", 10)
    assert channel.next_boot(5).version == "2026.11.2"


def test_no_boot_in_time_is_a_timeout(tmp_path: Path) -> None:
    far = Guest(tmp_path)
    channel = Channel(far.path, lambda: True)
    with pytest.raises(GuestTimeout, match="did not come up"):
        channel.next_boot(0.2)
    channel.close()


def test_an_ended_qemu_is_noticed_at_once(tmp_path: Path) -> None:
    far = Guest(tmp_path)
    channel = Channel(far.path, lambda: False)
    with pytest.raises(GuestError, match="QEMU has ended"):
        channel.next_boot(60)
    channel.close()


def test_commas_in_a_credential_are_doubled_for_qemu() -> None:
    assert guest.credential("io.systemd.credential:x", "a,b") == [
        "-smbios",
        "type=11,value=io.systemd.credential:x=a,,b",
    ]


def test_the_script_travels_whole() -> None:
    sent = next(item for item in guest.credentials() if f".binary:{guest.PORT}=" in item)
    encoded = sent.split("=", 3)[3] if sent.count("=") > 3 else sent.rpartition(f"{guest.PORT}=")[2]
    assert base64.b64decode(encoded.replace(",,", ",") + "==") == guest.SCRIPT.read_bytes()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shell_scripts_are_clean() -> None:
    scripts = [
        guest.SCRIPT,
        *guest.SCRIPT.parent.glob("mkosi/mkosi.*inst*"),
        guest.SCRIPT.parent / "mkosi/mkosi.finalize",
    ]
    subprocess.run(["shellcheck", "-s", "sh", "-e", "SC1091,SC2034", *map(str, scripts)], check=True)
