"""Recorded boxes: what a check saw, as a TOML file, made into a `Host` again.

`fixtures/<check id>/<verdict>[-<what>].toml`, where the verdict is `conforming` (pass), `violating` (fail) or one of
XCCDF's other words. A recording has:

- `files`: path to contents, made into a file tree; `links`: path to target of a symbolic link;
- `bus`: answers of the system bus, each for one member (with any arguments);
- `privileged`: what the collector saw, written as the facts file that the agent reads;
- `journal`: entries in journalctl's export format, made into a real journal file by systemd-journal-remote;
- `clock`: whether the kernel calls the clock synchronised (`unsynchronised`, `unknown`);
- `space`: path to the size and use of a file system, mounted as a real tmpfs of that size;
- `settings`: the `[checks]` table; `assigned_version`; `reason` and `facts`: parts of what the check must say.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from appliance_protocol.clock import ClockReading, ClockState
from appliance_protocol.verdict import Verdict
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.checks.settings import CheckSettings
from compliance_agent.config import Config
from compliance_agent.errors import CheckError
from compliance_agent.privileged import FACTS_FILE, read_facts

FIXTURES = Path(__file__).parent / "fixtures"
NOW = ClockReading(1795258800.0, 7200.0, "3f1c9a52-7d4e-4b1a-9c55-0a6b1f2e3d4c", ClockState.SYNCHRONISED)
"""When every recording was made: 21 November 2026, 11:00 UTC, two hours after the box was started."""
MACHINE = "c0ffee00c0ffee00c0ffee00c0ffee00"
JOURNAL = f"/var/log/journal/{MACHINE}/system.journal"
WORDS = {"conforming": Verdict.PASS, "violating": Verdict.FAIL}


@dataclass(frozen=True)
class Answer:
    """One recorded answer of the bus."""

    service: str
    path: str
    interface: str
    member: str
    answer: Any


@dataclass(frozen=True)
class Space:
    """A file system of a size, in KiB, partly used."""

    kib: int
    used_kib: int
    inodes: int = 1000
    used_inodes: int = 0


@dataclass(frozen=True)
class Case:
    """One recording."""

    reason: str = ""
    assigned_version: str | None = None
    journal: str = ""
    clock: ClockState = ClockState.SYNCHRONISED
    facts: dict[str, str] = field(default_factory=dict)
    settings: CheckSettings = field(default_factory=CheckSettings)
    space: dict[str, Space] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    privileged: dict[str, Any] | None = None
    bus: tuple[Answer, ...] = ()


class RecordedBus:
    """Answers what was recorded, and fails like a bus without that service for everything else."""

    def __init__(self, answers: tuple[Answer, ...]) -> None:
        self.answers = {(one.service, one.path, one.interface, one.member): one.answer for one in answers}

    def property(self, service: str, path: str, interface: str, name: str) -> Any:
        """A recorded property."""
        try:
            return self.answers[service, path, interface, name]
        except KeyError:
            raise CheckError(f"D-Bus {interface}.{name} failed: the service is not there") from None

    def call(self, service: str, path: str, interface: str, method: str, *arguments: Any) -> Any:
        """A recorded reply, whatever the arguments."""
        return self.property(service, path, interface, method)


class StoppedClock:
    """Always the time of the recording."""

    def __init__(self, state: ClockState = ClockState.SYNCHRONISED) -> None:
        self.state = state

    def read(self) -> ClockReading:
        """`NOW`."""
        return replace(NOW, state=self.state)


def cases(check_id: str = "*") -> list[Path]:
    """The recordings of one check, or of all."""
    return sorted(FIXTURES.glob(f"{check_id}/*.toml"))


def name(path: Path) -> str:
    """`tpm/violating-old`."""
    return f"{path.parent.name}/{path.stem}"


def expected(path: Path) -> Verdict:
    """The verdict a recording is named for."""
    word = path.stem.partition("-")[0]
    return WORDS.get(word) or Verdict(word)


def load(path: Path) -> Case:
    """Read a recording, strictly."""
    return msgspec.toml.decode(path.read_bytes(), type=Case)


@contextlib.contextmanager
def box(case: Case, root: Path) -> Iterator[Host]:
    """The recorded box, with its file tree in `root`."""
    root.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as undo:
        for point, space in case.space.items():
            undo.enter_context(_mounted(root / point.lstrip("/"), space))
        for path, target in case.links.items():
            link = root / path.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        for path, content in case.files.items():
            write(root, path, content.encode())
        if case.privileged is not None:
            write(root, FACTS_FILE, json.dumps({"collected": msgspec.to_builtins(NOW)} | case.privileged).encode())
        if case.journal:
            _journal(root, case.journal)
        yield host(case, root)


def host(case: Case, root: Path) -> Host:
    """A host over a tree that is there already."""
    return Host(
        root=root,
        config=Config(checks=case.settings),
        clock=StoppedClock(case.clock),
        bus=RecordedBus(case.bus),
        read_privileged=lambda: read_facts(NOW, root),
        assigned_version=case.assigned_version,
    )


def write(root: Path, path: str, content: bytes) -> None:
    """Put one file into a tree."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def look(check: Check, host: Host) -> Finding:
    """Run a check; what it could not read becomes the verdict `error`, as with the agent's runner."""
    try:
        return check.run(host)
    except CheckError as error:
        return Finding(Verdict.ERROR, str(error), error.source)


def _journal(root: Path, export: str) -> None:
    program = shutil.which("systemd-journal-remote", path="/lib/systemd:/usr/lib/systemd") or "systemd-journal-remote"
    file = root / JOURNAL.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([program, "-o", str(file), "-"], input=export.encode(), check=True, capture_output=True, timeout=20)


@contextlib.contextmanager
def _mounted(point: Path, space: Space) -> Iterator[None]:
    point.mkdir(parents=True)
    options = f"size={space.kib}k,nr_inodes={space.inodes}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], check=True, timeout=20)
    try:
        if space.used_kib:
            (point / "evidence").write_bytes(os.urandom(space.used_kib << 10))
        for number in range(space.used_inodes - 1):
            (point / str(number)).touch()
        yield
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True, timeout=20)
