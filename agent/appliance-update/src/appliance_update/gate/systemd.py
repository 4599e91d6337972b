"""What systemd says about units, by `systemctl`; nothing of D-Bus is needed for the few things the gate asks."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

TIMEOUT = 30.0


class NoAnswer(RuntimeError):
    """systemd does not answer; the message says how."""


def show(units: Sequence[str], *properties: str) -> dict[str, dict[str, str]]:
    """Properties of loaded units, by the unit's name. Raises `NoAnswer`."""
    text = _systemctl("show", f"--property={','.join(('Id', *properties))}", "--", *units)
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in text.split("\n\n")]
    return {block["Id"]: block for block in blocks if "Id" in block}


def running_services() -> tuple[str, ...]:
    """The services that run now, instances of templates (logins) left out. Raises `NoAnswer`."""
    text = _systemctl("list-units", "--type=service", "--state=running", "--plain", "--no-legend", "--no-pager")
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    return tuple(sorted(name for name in names if "@" not in name))


def start(unit: str, *, wait: bool, timeout: float = TIMEOUT) -> str:
    """Start a unit; empty when that went well, else what systemd says. Raises `NoAnswer`."""
    try:
        _systemctl("start", *([] if wait else ["--no-block"]), "--", unit, timeout=timeout)
    except Refused as error:
        return str(error)
    return ""


def last_words(invocation: str, lines: int = 12) -> str:
    """The end of what one run of a unit wrote into the journal; empty when that cannot be told."""
    if not invocation:
        return ""
    try:
        done = subprocess.run(
            ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={lines}",
             f"_SYSTEMD_INVOCATION_ID={invocation}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def sync_journal() -> None:
    """Have the journal written to disk before a reboot that asks nobody. Best effort."""
    try:
        subprocess.run(["journalctl", "--sync"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return


class Refused(NoAnswer):
    """systemd answered no."""


def _systemctl(*arguments: str, timeout: float = TIMEOUT) -> str:
    try:
        done = subprocess.run(
            ["systemctl", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise NoAnswer(f"systemd does not answer: {error}") from error
    if done.returncode and arguments[0] != "show":
        raise Refused((done.stderr or done.stdout).strip()[:500] or f"systemctl ended with {done.returncode}")
    return done.stdout
