"""What the device knew about the time when it said something."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ClockState(enum.StrEnum):
    """Whether the wall clock can be believed."""

    SYNCHRONISED = "synchronised"
    UNSYNCHRONISED = "unsynchronised"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ClockReading:
    """Two clocks read together, so that a jump of the one can be seen against the other.

    `wall` is seconds since the epoch (UTC); `monotonic` is seconds since this boot (CLOCK_BOOTTIME); `boot_id` is
    the kernel's random id of this boot (/proc/sys/kernel/random/boot_id), without which `monotonic` means nothing.
    """

    wall: float
    monotonic: float
    boot_id: str
    state: ClockState
