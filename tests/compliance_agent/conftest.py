"""Shared fixtures of the agent's tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compliance_agent.central_peer import CentralPeer


@pytest.fixture
def central(tmp_path: Path) -> Iterator[CentralPeer]:
    """A Central Command of our own, on loopback."""
    peer = CentralPeer(tmp_path / "central")
    yield peer
    peer.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
