"""Whether the wall clock can be believed, read without privilege from the kernel."""

from __future__ import annotations

import ctypes
import functools
import time
from pathlib import Path

from appliance_protocol.clock import ClockReading, ClockState

EARLIEST = 1_767_225_600.0
"""2026-01-01T00:00:00Z: this program did not exist before. An earlier clock is wrong, whatever the kernel thinks."""
STA_UNSYNC = 0x0040
"""linux/timex.h."""
TIMESYNCD_MARK = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd makes it when it has set the clock; for kernels that refuse adjtimex."""


class _Timex(ctypes.Structure):
    """struct timex of linux/timex.h, as far as we read it; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def kernel_state() -> ClockState:
    """What the kernel's clock discipline says (adjtimex(2) in read mode, which needs no privilege)."""
    timex = _Timex(modes=0)
    if _libc().adjtimex(ctypes.byref(timex)) >= 0:
        return ClockState.UNSYNCHRONISED if timex.status & STA_UNSYNC else ClockState.SYNCHRONISED
    return ClockState.SYNCHRONISED if TIMESYNCD_MARK.exists() else ClockState.UNKNOWN


@functools.cache
def boot_id() -> str:
    """The kernel's random id of this boot; empty when /proc does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class SystemClock:
    """The box's own clocks."""

    def read(self) -> ClockReading:
        """Wall and monotonic time, read together, with the state of synchronisation."""
        wall = time.time()
        state = kernel_state() if wall >= EARLIEST else ClockState.UNSYNCHRONISED
        return ClockReading(wall, time.clock_gettime(time.CLOCK_BOOTTIME), boot_id(), state)
