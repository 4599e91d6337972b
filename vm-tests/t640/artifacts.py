"""What one built version consists of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Artifacts:
    """One built version: raw partitions for a new disk; `loader` is the systemd-boot of the same release."""

    version: str
    directory: Path
    data: Path
    data_uuid: str
    verity: Path
    verity_uuid: str
    uki: Path
    loader: Path
