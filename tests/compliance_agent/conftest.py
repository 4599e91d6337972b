"""Shared fixtures of the agent's tests."""

from __future__ import annotations

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
