"""KVM where it is really fast, emulation elsewhere.

Some machines have a /dev/kvm under which a guest crawls (nested virtualisation without hardware help). So a tiny
boot sector counts down before KVM is trusted. `T640_ACCEL=kvm` or `=tcg` skips the measurement.
"""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path

_ENOUGH_S = 3.0
"""Firmware and countdown take well under a second with real KVM."""

_COUNTDOWN = bytes.fromhex(
    "66b900c2eb0b"  # mov ecx, 200000000
    "6649"  # dec ecx
    "75fc"  # jnz back to dec
    "b010e6f4"  # mov al, 0x10; out 0xf4, al: isa-debug-exit ends QEMU with (0x10 << 1) | 1
    "f4ebfd"  # hlt, for ever
)
_EXIT_STATUS = 0x21


@functools.cache
def accelerator() -> str:
    """`kvm` or `tcg`."""
    chosen = os.environ.get("T640_ACCEL", "")
    if chosen in ("kvm", "tcg"):
        return chosen
    return "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) and _kvm_is_fast() else "tcg"


def _kvm_is_fast(accel: str = "kvm") -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        sector = Path(scratch) / "boot.img"
        sector.write_bytes(_COUNTDOWN.ljust(510, b"\0") + b"\x55\xaa")
        command = ["qemu-system-x86_64", "-accel", accel, "-display", "none", "-nodefaults", "-m", "32", "-boot", "a",
                   "-drive", f"file={sector},format=raw,if=floppy",
                   "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]  # fmt: skip
        try:
            done = subprocess.run(command, timeout=_ENOUGH_S, capture_output=True)
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == _EXIT_STATUS
