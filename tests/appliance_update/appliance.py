"""A whole simulated appliance in a few milliseconds: for thousands of runs.

The updater, its settling, snapshots, restore and watch are the real ones, on the simulated device. Metadata and
downloads are cut short (`Shelf`): what they do under faults is tested where they are (test_metadata, test_transfer,
test_every_cut). Beside the updater run the services with their databases and their evidence.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from appliance_update import faults, history
from appliance_update.config import Config, Paths
from appliance_update.files import flush_directory
from appliance_update.layout import Layout, Role, load
from appliance_update.machine import assemble
from appliance_update.release import Artifact, Release, version_key
from appliance_update.repository import Catalogue, CheckError, Repository
from appliance_update.restore import restore
from appliance_update.settle import settle
from appliance_update.snapshots import SnapshotError
from appliance_update.store import Busy
from appliance_update.transfer import Progress, Transfer, TransferError
from appliance_update.updater import UpdateError, Updater
from tests.appliance_update.databases import Services
from tests.appliance_update.simulator import (
    Build,
    Device,
    SimulatedSysupdate,
    boot,
    make_build,
    make_device,
    small_layout,
)
from tests.appliance_update.watching import CRASHING, watch_of

SIZE = 6000
"""Bytes of a build's data."""


class PowerCut(BaseException):
    """Nothing after this line of the program happens."""


def cut() -> BaseException:
    return PowerCut()


def input_output_error() -> BaseException:
    return OSError(errno.EIO, os.strerror(errno.EIO))


def no_space() -> BaseException:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@dataclass
class Disturbance:
    """Counts the places that are passed, and fails at the given ones (numbers from 0) and where `stop` says so."""

    at: frozenset[int] = frozenset()
    error: Callable[[], BaseException] = cut
    names: list[str] = field(default_factory=list)
    stop: Callable[[str], bool] = lambda _name: False

    def __call__(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) - 1 in self.at or self.stop(name):
            raise self.error()


@contextlib.contextmanager
def disturbed(by: Disturbance) -> Iterator[None]:
    """Disturb what happens inside; what an operator would see as a message is no error of the test."""
    faults.set_hook(by)
    try:
        with contextlib.suppress(PowerCut, UpdateError, SnapshotError, OSError, Busy):
            yield
    finally:
        faults.set_hook(None)


# -- a repository without metadata ------------------------------------------------------------------------------------


@dataclass
class Shelf:
    """Releases as a verified catalogue has them, and the bytes of their artifacts."""

    directory: Path
    layout_file: Path
    layout: Layout
    builds: dict[str, Build] = field(default_factory=dict)
    offered: dict[str, Release] = field(default_factory=dict)
    content: dict[str, bytes] = field(default_factory=dict)
    reachable: bool = True
    epoch: int = 0

    def build(self, version: str) -> Build:
        if version not in self.builds:
            self.builds[version] = make_build(self.directory, version, size=SIZE)
        return self.builds[version]

    def put(self, version: str, **changes: Any) -> None:
        """Offer a version. The security epoch never falls: the publisher refuses that."""
        self.epoch = changes["security_epoch"] = max(self.epoch, changes.get("security_epoch", 0))
        build = self.build(version)
        parts = (
            (Role.VERITY, build.verity, build.verity_uuid.hex),
            (Role.DATA, build.data, build.data_uuid.hex),
            (Role.UKI, build.uki, ""),
        )
        artifacts = tuple(self._artifact(role, version, content, uuid) for role, content, uuid in parts)
        self.offered[version] = replace(Release(version, build.root_hash, artifacts, "standin"), **changes)

    def _artifact(self, role: Role, version: str, content: bytes, uuid: str) -> Artifact:
        digest = hashlib.sha256(content).hexdigest()
        self.content[digest] = content
        return Artifact(role.value, f"{role.value}-{version}", len(content), digest, len(content), digest, uuid)


def make_shelf(directory: Path) -> Shelf:
    layout_file = small_layout(directory)
    return Shelf(directory, layout_file, load(layout_file))


@dataclass(frozen=True)
class ShelfRepository(Repository):
    """Says what lies on the shelf."""

    shelf: Shelf = None  # type: ignore[assignment]

    def refresh(self, layout: Layout, device_class: str, flavour: str, now: float) -> Catalogue:
        faults.point("tuf:refresh")
        if not self.shelf.reachable:
            raise CheckError("no uplink")
        return Catalogue(tuple(self.shelf.offered.values()), {}, 0.0)


@dataclass(frozen=True)
class ShelfTransfer(Transfer):
    """Takes from the shelf, in two writes and a rename."""

    shelf: Shelf = None  # type: ignore[assignment]

    def preflight(self, release: Release) -> None:
        for directory in (self.downloads, self.staging):
            directory.mkdir(parents=True, exist_ok=True)

    def fetch(self, release: Release, progress: Progress) -> None:
        for artifact in release.artifacts:
            content = self.shelf.content[artifact.sha256]
            part = self.downloads / f"{artifact.sha256}.part"
            if self.staged(release, artifact).exists() or (part.exists() and part.stat().st_size == len(content)):
                continue
            for length in (len(content) // 2, len(content)):
                faults.point(f"chunk:{artifact.role}")
                part.write_bytes(content[:length])

    def verify(self, release: Release, progress: Progress) -> None:
        for artifact in release.artifacts:
            final, part = self.staged(release, artifact), self.downloads / f"{artifact.sha256}.part"
            wanted = self.shelf.content[artifact.sha256]
            if final.exists() and final.read_bytes() == wanted:
                continue
            faults.point(f"verify:{artifact.role}")
            if not part.exists() or part.read_bytes() != wanted:
                part.unlink(missing_ok=True)
                raise TransferError(f"{artifact.target} is not there")
            part.replace(final)
            flush_directory(final.parent)
            faults.point(f"staged:{artifact.role}")


# -- the appliance ----------------------------------------------------------------------------------------------------


@dataclass
class Appliance:
    """One device, what it polls, its services and its clock.

    `good` versions pass their gate; `bad_schema` services migrate on trial all the same.
    """

    device: Device
    shelf: Shelf
    config: Config
    good: set[str]
    services: Services
    writer: SimulatedSysupdate
    ahead: float = 0.0
    uptime: float = 1000.0
    rebooted: list[bool] = field(default_factory=list)
    boots: int = 0

    @property
    def version(self) -> str:
        return self.device.host.image_version

    def now(self) -> float:
        return time.time() + self.ahead

    def updater(self, **changes: Any) -> Updater:
        """A new process: nothing is remembered but what is on the device's disk."""
        config = replace(self.config, **changes)
        made = assemble(
            config, host=self.device.host, writer=self.writer, reboot=self.rebooted.append, now=self.now,
            pause=lambda _seconds: None,
        )  # fmt: skip
        shelf = {"shelf": self.shelf}
        made.repository = ShelfRepository(**(_fields(made.repository) | shelf))
        made.transfer = ShelfTransfer(**(_fields(made.transfer) | {"repository": made.repository} | shelf))
        made.installer = replace(made.installer, transfer=made.transfer)
        return made

    # -- what happens to it -------------------------------------------------------------------------------------------

    def run(self, **changes: Any) -> str:
        """The timer."""
        try:
            return self.updater(**changes).run()[1]
        except UpdateError as error:
            return str(error)

    def settle(self) -> Updater:
        updater = self.updater()
        with updater.store.locked():
            settle(updater.store, updater.host, updater.layout)
        return updater

    def restore(self) -> None:
        """appliance-update-restore.service."""
        updater = self.updater()
        with updater.store.locked():
            restore(updater.store, updater.snapshots, self.version)

    def look(self, crashing: bool = True) -> str:
        """One look of the watch."""
        self.uptime += 900.0
        facts = CRASHING if crashing else {}
        parts = {"units": lambda _units: facts, "uptime": lambda: self.uptime}
        return watch_of(self.updater(), self.rebooted.append, **parts).look()

    def order(self, order_id: str) -> None:
        requests = self.device.runtime / "requests"
        requests.mkdir(parents=True, exist_ok=True)
        (requests / f"{order_id}.json").write_text(json.dumps({"order_id": order_id, "requested_at": 1}))

    def mark_bad(self, version: str) -> None:
        updater = self.settle()
        with updater.store.locked():
            updater.mark_bad(version, "by hand")

    def power_on(self) -> str:
        """Boot until something stays up. Every boot that gets so far restores, starts the services and settles."""
        for _ in range(12):
            version = boot(self.device, healthy=self.good, limit=1)
            self.boots += 1
            if not self.device.boots:
                raise AssertionError("there is nothing to boot")
            if version is None and not self._reached():
                continue  # it panicked
            self.restore()
            self.services.start()
            self.settle()
            if version is not None or self._exhausted():
                return self.version
        raise AssertionError(f"nothing stays up: {self.device.ukis()}")

    def _reached(self) -> bool:
        """Whether the last boot got as far as user space."""
        return self.version == self.device.boots[-1]

    def _exhausted(self) -> bool:
        """Whether the gate does not reboot any more (boot-health --exhausted)."""
        name = self.device.host.booted_entry()
        done = name.rpartition("+0-")[2].partition(".")[0]
        return "+0-" in name and int(done) > self.shelf.layout.boot.tries

    # -- what must always hold ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Some slot boots, histories are truthful and whole, and no evidence is lost or doubled."""
        self.services.check_evidence()
        entries, damaged = history.read(self.device.state / "history.jsonl")
        assert damaged == 0
        counts = Counter((entry.event, entry.version, entry.order_id) for entry in entries if entry.order_id)
        assert all(count == 1 for (event, _, _), count in counts.items() if event in ("committed", "rolled_back"))
        booted = self.power_on()
        assert booted in self.shelf.builds
        self.services.rows()

    def advances(self, version: str) -> None:
        """The updater can apply `version`: run and boot, and nothing else, a few times."""
        self.shelf.reachable = True
        self.good.add(version)
        self.shelf.put(version)
        for _ in range(6):
            if self.version != version:
                self.run()
            self.power_on()
            record = self.settle().store.record
            if record.state.settled and record.good_version == self.version == version:
                break
        else:
            raise AssertionError(f"{version} cannot be applied: {record.state} {record.detail}; {self.device.ukis()}")
        events = [entry.event for entry in self.history() if entry.version == version]
        assert events.count("committed") == 1
        assert "rolled_back" not in events
        self.services.check_evidence()

    def history(self) -> list[history.Entry]:
        return history.read(self.device.state / "history.jsonl")[0]

    def count(self, event: str, version: str) -> int:
        return [(entry.event, entry.version) for entry in self.history()].count((event, version))


def _fields(made: Any) -> dict[str, Any]:
    return {name: getattr(made, name) for name in type(made).__dataclass_fields__}


def make_appliance(shelf: Shelf, root: Path, version: str) -> Appliance:
    """A device that runs `version` from slot a, with the services' databases and one bundle of evidence."""
    device = make_device(root, shelf.layout_file, shelf.build(version))
    paths = Paths(str(shelf.layout_file), "", str(device.state), str(device.runtime))
    config = Config(repository="http://127.0.0.1:1", paths=paths)
    made = Appliance(device, shelf, config, {version}, Services(device), SimulatedSysupdate(device))
    made.services.start()
    made.settle()
    return made


def after(version: str) -> str:
    """The version after this one."""
    year, month, number = version_key(version)
    return f"{year}.{month}.{number + 1}"
