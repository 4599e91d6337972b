from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from appliance_release import keys
from appliance_release.artifacts import collect
from appliance_release.publishing import publish
from appliance_release.repository import Description, Repository
from appliance_update import faults
from appliance_update.config import Config, Paths
from appliance_update.machine import assemble
from appliance_update.restore import restore
from appliance_update.updater import Updater
from appliance_update.watch import Watch
from tests.appliance_update.simulator import Build, Device, SimulatedSysupdate, make_build, make_device, small_layout
from tests.appliance_update.watching import watch_of
from tests.appliance_update.web_server import WebServer

V1, V2, V3 = "2026.11.1", "2026.11.2", "2026.11.10"


@pytest.fixture(autouse=True)
def no_fault_is_left_behind() -> Iterator[None]:
    yield
    faults.set_hook(None)


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: these tests flush a thousand times."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@dataclass
class World:
    """A device, the repository it polls, and the server in between."""

    directory: Path
    layout_file: Path
    device: Device
    publisher: Repository
    server: WebServer
    config: Config
    rebooted: list[bool]
    writer: SimulatedSysupdate
    now: Callable[[], float] = time.time

    def publish(self, version: str, **changes: object) -> Build:
        build = make_build(self.directory, version)
        self.put(build, **changes)
        return build

    def put(self, build: Build, **changes: object) -> None:
        description = replace(Description(build.version), **changes)  # type: ignore[arg-type]
        publish(
            replace(self.publisher, now=self.now()),
            description,
            collect((build.directory,), build.version),
            level=1,
            unproven=True,
        )

    def updater(self, **changes: object) -> Updater:
        """A new process: nothing is remembered but what is on the device's disk."""
        return assemble(
            replace(self.config, **changes),  # type: ignore[arg-type]
            host=self.device.host,
            writer=self.writer,
            reboot=self.rebooted.append,
            now=self.now,
            pause=lambda _seconds: None,
        )

    def settle(self) -> Updater:
        updater = self.updater()
        from appliance_update.settle import settle

        with updater.store.locked():
            settle(updater.store, updater.host, updater.layout)
        return updater

    def restore(self) -> str:
        """What appliance-update-restore.service does before the services start."""
        updater = self.updater()
        with updater.store.locked():
            return restore(updater.store, updater.snapshots, self.device.host.image_version)

    def watch(self, **parts: object) -> Watch:
        """The watch after commit; by default every unit is well, and so is the network."""
        return watch_of(self.updater(), self.rebooted.append, **parts)

    def events(self) -> list[tuple[str, str]]:
        from appliance_update import history

        return [(entry.event, entry.version) for entry in history.read(self.device.state / "history.jsonl")[0]]


@pytest.fixture(scope="session")
def key_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    keys.generate(directory)
    return directory


def make_world(directory: Path, key_directory: Path, flavour: str = "standin") -> World:
    layout_file = small_layout(directory)
    publisher = Repository(directory / "repository", key_directory, time.time())
    trusted = publisher.init()
    device = make_device(directory / "device", layout_file, make_build(directory, V1, flavour=flavour), flavour)
    server = WebServer(directory / "repository")
    paths = Paths(str(layout_file), str(trusted), str(device.state), str(device.runtime))
    config = Config(repository=server.url, paths=paths)
    return World(directory, layout_file, device, publisher, server, config, [], SimulatedSysupdate(device))


def fresh_device(shelf: World, directory: Path) -> World:
    """Another device at V1 that polls the same repository."""
    build = make_build(shelf.directory, V1, flavour=shelf.device.flavour)
    device = make_device(directory, shelf.layout_file, build, shelf.device.flavour)
    paths = replace(shelf.config.paths, state=str(device.state), runtime=str(device.runtime))
    return replace(
        shelf, device=device, config=replace(shelf.config, paths=paths), rebooted=[], writer=SimulatedSysupdate(device)
    )


@pytest.fixture
def world(quick: Path, key_directory: Path) -> Iterator[World]:
    made = make_world(quick, key_directory)
    yield made
    made.server.close()
