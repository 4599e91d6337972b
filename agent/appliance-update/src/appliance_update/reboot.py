"""What systemd is asked for: a reboot, with regard for whoever inhibits it or without; the blessing of this boot."""

from __future__ import annotations

import contextlib
import subprocess


def systemctl_reboot(respect_inhibitors: bool) -> None:
    """Ask systemd to reboot. Raises `OSError` with its answer when it does not."""
    call = ["systemctl", f"--check-inhibitors={'yes' if respect_inhibitors else 'no'}", "--no-ask-password", "reboot"]
    try:
        done = subprocess.run(call, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise OSError("systemctl did not answer in 60 s") from error
    if done.returncode:
        raise OSError((done.stderr or done.stdout).strip()[:300] or f"systemctl ended with {done.returncode}")


def systemctl_bless() -> None:
    """Ask systemd-bless-boot once more to take the counter off the booted entry. Never raises."""
    call = ["systemctl", "--no-ask-password", "restart", "systemd-bless-boot.service"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(call, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
