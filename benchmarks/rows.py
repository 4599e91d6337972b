"""One figure of ours beside the rival's of the same run."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Better(enum.StrEnum):
    """Which direction is good."""

    LOWER = "lower"
    HIGHER = "higher"


@dataclass(frozen=True)
class Row:
    """A figure: what was measured, ours and the rival's in the same `unit`, and the bound the project set itself.

    `rival` is None where nothing comparable exists; `rival_name` then says why.
    """

    name: str
    unit: str
    ours: float
    rival: float | None
    rival_name: str
    better: Better = Better.LOWER
    bound: float | None = None
    """Absolute bound on `ours`, in `unit`."""
    ratio_bound: float | None = None
    """Bound on ours divided by the rival's."""

    @property
    def ratio(self) -> float | None:
        """Ours divided by the rival's, None where there is no rival."""
        return self.ours / self.rival if self.rival else None

    @property
    def kept(self) -> bool:
        """Whether every bound is kept."""
        sign = 1 if self.better is Better.LOWER else -1
        absolute = self.bound is None or sign * self.ours <= sign * self.bound
        relative = self.ratio_bound is None or (self.ratio is not None and sign * self.ratio <= sign * self.ratio_bound)
        return absolute and relative
