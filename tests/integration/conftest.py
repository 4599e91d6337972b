"""One world and one appliance for a whole story; of a story, what comes after a failed step is not tried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from t640 import disk
from t640.image import build
from t640.releases import recipe, versions
from t640.session import open_session
from t640.world import Scene, World

VERSION = versions()[0]


@pytest.fixture(scope="session")
def install_disk() -> Path:
    return disk.assemble(build(recipe(VERSION)))


@pytest.fixture(scope="module")
def scene(install_disk: Path) -> Iterator[Scene]:
    with open_session() as session:
        world = World(session, checkin_interval=20)
        machine = world.appliance(install_disk)
        try:
            yield Scene(world, machine, versions())
        finally:
            machine.crash()


_failed: set[str] = set()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed and item.get_closest_marker("story"):
        _failed.add(item.module.__name__)  # type: ignore[attr-defined]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("story") and item.module.__name__ in _failed:  # type: ignore[attr-defined]
        pytest.skip("an earlier step of the story failed")
