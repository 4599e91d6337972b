"""Rebooting, with regard for whoever inhibits it, or without."""

from __future__ import annotations

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
