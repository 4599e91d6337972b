"""A bandwidth cap: a clinic's line is for its patients first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Bucket:
    """A token bucket of `rate` bytes a second that holds one second's worth; a rate of 0 is no cap.

    What was received is taken afterwards: the bucket may go into debt, and the debt is slept off.
    """

    rate: float = 0.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _level: float = 0.0
    _at: float = field(default=float("-inf"))

    def take(self, count: int) -> None:
        """Account for `count` bytes, and sleep until the cap is kept again."""
        if self.rate <= 0:
            return
        now = self.clock()
        self._level = min(self.rate, self._level + (now - self._at) * self.rate) - count
        self._at = now
        if self._level < 0:
            self.sleep(-self._level / self.rate)
