"""One run of the rig: its name, its folder, its namespaces and processes, and the certainty that all of it goes away.

Every namespace carries the run's name, so several runs live side by side. A run that was killed outright leaves
namespaces behind (its processes die with it); the next run finds their owner dead and removes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from t640.errors import Missing, RigError
from t640.paths import cache_directory
from t640.processes import Process

REGISTRY = Path(os.environ.get("T640_REGISTRY", "/run/t640"))
"""One file a run: who owns the namespaces of that name."""

PROGRAMS = ("ip", "nsenter", "setpriv", "dnsmasq", "chronyd", "nginx", "snmpd", "sshd", "tcpdump")


class Session:
    """A run's name, folder, namespaces and processes. Use `open_session`."""

    def __init__(self) -> None:
        self.name = f"t640-{secrets.token_hex(2)}"
        self.work = cache_directory() / "runs" / self.name
        self.work.mkdir(parents=True)
        self._processes: list[Process] = []
        REGISTRY.mkdir(exist_ok=True)
        owner = {"pid": os.getpid(), "started": _started(os.getpid()), "work": str(self.work)}
        (REGISTRY / f"{self.name}.json").write_text(json.dumps(owner))

    def namespace(self, part: str) -> str:
        """The full name of one of this run's namespaces."""
        return f"{self.name}-{part}"

    def add_namespace(self, part: str) -> str:
        """Make a network namespace with its loopback up; returns its full name."""
        name = self.namespace(part)
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        return name

    def start(
        self,
        title: str,
        argv: Sequence[str],
        *,
        namespace: str | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        cwd: Path | None = None,
    ) -> Process:
        """Start a program that ends with this run; its output goes to `<title>.log` in the run's folder."""
        log = self.work / f"{title}.log"
        process = Process(argv, log=log, namespace=namespace, env=env, pass_fds=pass_fds, cwd=cwd)
        self._processes.append(process)
        return process

    def close(self, keep_files: bool = False) -> None:
        """End every process, remove every namespace, forget the run."""
        for process in reversed(self._processes):
            process.signal(signal.SIGTERM)
        for process in reversed(self._processes):
            process.stop(grace=2.0)
        _remove_namespaces(self.name)
        if not keep_files:
            shutil.rmtree(self.work, ignore_errors=True)
        (REGISTRY / f"{self.name}.json").unlink(missing_ok=True)


@contextlib.contextmanager
def open_session(keep_files: bool = False) -> Iterator[Session]:
    """A run that is torn down at the end: after an error, Ctrl-C or SIGTERM alike. Raises `Missing` or `RigError`."""
    if os.geteuid() != 0:
        raise Missing("The rig makes network namespaces and needs root.")
    path = "/usr/sbin:/sbin:" + os.environ.get("PATH", "")
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        raise Missing(f"Not installed: {', '.join(missing)}. `make setup` installs what the rig needs.")
    clean_up_after_the_dead()
    with _termination_as_exception():
        session = Session()
        try:
            yield session
        finally:
            with _undisturbed():
                session.close(keep_files)


@contextlib.contextmanager
def _termination_as_exception() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    # A shell that starts us in the background has SIGINT ignored, and Python then leaves it so.
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not interrupt the clearing up that the first one started."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def clean_up_after_the_dead() -> list[str]:
    """Remove what runs left behind that were killed outright; returns their names."""
    removed = []
    for record in REGISTRY.glob("t640-*.json") if REGISTRY.is_dir() else ():
        try:
            owner = json.loads(record.read_text())
        except (OSError, ValueError):
            continue
        if _started(int(owner["pid"])) == owner["started"]:
            continue
        _remove_namespaces(record.stem)
        shutil.rmtree(owner["work"], ignore_errors=True)
        record.unlink(missing_ok=True)
        removed.append(record.stem)
    return removed


def _started(pid: int) -> str:
    """When a process started (clock ticks since boot), empty when there is none: pids come round again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _remove_namespaces(name: str) -> None:
    folder = Path("/run/netns")
    for path in sorted(folder.glob(f"{name}-*")) if folder.is_dir() else ():
        found = subprocess.run(["ip", "netns", "pids", path.name], capture_output=True, text=True)
        for pid in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", path.name], capture_output=True)


def ip(*arguments: str) -> str:
    """Run iproute2's `ip`. Raises `RigError` with what it said."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RigError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
