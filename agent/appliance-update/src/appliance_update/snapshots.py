"""The services' databases as they were before another version booted, and their return when it is left again.

Taken with SQLite's backup API while the services run, one directory for each version that was left. They come back
before the services start, and only where the schema in place is not the one the version knows: what another version
wrote into a schema both know is kept. Evidence is never among them: rolling a chain back would fork it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import sqlite3
import stat
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance_update import faults
from appliance_update.files import Unreadable, decode, flush_directory, read_limited, write_json
from appliance_update.host import Host

NEVER = ("evidence.db",)
"""Files that are never snapshotted nor restored, whatever the configuration says: they only grow."""
INDEX = "index.json"
FAILED = "failed.json"
DEADLINE = 60.0
"""Seconds one database may take; a service that writes without end must not hold up an update for ever."""
RESERVE = 16 * 1024 * 1024
ASIDES = 2
"""How many replaced databases are kept beside each one."""


class SnapshotError(RuntimeError):
    """A database that could not be snapshotted or restored; the message names it and the reason."""


@dataclass(frozen=True)
class Copy:
    """One database of a snapshot: where it belongs, its schema (PRAGMA user_version), owner and mode."""

    path: str
    user_version: int
    uid: int
    gid: int
    mode: int


@dataclass(frozen=True)
class Index:
    """What a snapshot holds: file name to database. `taken_at` is seconds since the epoch."""

    taken_at: float = 0.0
    databases: dict[str, Copy] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Path to reason of what SQLite could not read: a damaged database must not keep its repair away."""
    format: int = 1


@dataclass(frozen=True)
class Problem:
    """Why the databases of a version did not come back."""

    reason: str


@dataclass(frozen=True)
class Snapshots:
    """All snapshots of this device; `patterns` are globs of absolute paths."""

    host: Host
    directory: Path
    patterns: tuple[str, ...]

    # -- before another version boots ---------------------------------------------------------------------------------

    def take(self, version: str) -> Index:
        """Snapshot every database as `version` leaves it. What was there before is replaced file by file.

        Raises `SnapshotError` when there is no room or the disk fails; what was complete before stays so.
        """
        home = self.directory / version
        try:
            home.mkdir(parents=True, exist_ok=True)
            sources = self._sources()
            if sources:
                self._preflight(sources)
            kept, skipped = {}, {}
            for path in sources:
                name = file_name(path)
                try:
                    kept[name] = self._take_one(path, home / name)
                except sqlite3.DatabaseError as error:
                    if _code(error) not in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
                        raise
                    skipped[path] = str(error)
            index = Index(time.time(), kept, skipped)
            write_json(home / INDEX, index)
            for left_over in set(os.listdir(home)) - {INDEX, *kept}:  # noqa: PTH208
                (home / left_over).unlink(missing_ok=True)
        except (OSError, sqlite3.Error) as error:
            raise SnapshotError(f"The databases could not be snapshotted before the update: {error}") from error
        return index

    def _sources(self) -> list[str]:
        found = set()
        for pattern in self.patterns:
            for name in glob.glob(str(self.host.path(pattern))):  # noqa: PTH207
                path = Path(name)
                if path.name not in NEVER and stat.S_ISREG(path.lstat().st_mode):
                    found.add("/" + str(path.relative_to(self.host.root)))
        return sorted(found)

    def _preflight(self, sources: list[str]) -> None:
        needed = sum(self.host.path(path).stat().st_size for path in sources) + RESERVE
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"they need {needed >> 20} MiB, {free >> 20} MiB are free on the state disk")

    def _take_one(self, path: str, target: Path) -> Copy:
        source, fresh = self.host.path(path), target.with_name(f".{target.name}.new")
        faults.point(f"snapshot:{target.name}")
        fresh.unlink(missing_ok=True)
        facts = source.stat()
        version = back_up(source, fresh)
        flush(fresh)
        faults.point(f"snapshot rename:{target.name}")
        fresh.replace(target)
        flush_directory(target.parent)
        faults.point(f"snapshotted:{target.name}")
        return Copy(path, version, facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode))

    # -- after a fallback ---------------------------------------------------------------------------------------------

    def due(self, version: str) -> dict[str, str]:
        """Databases that must come back for `version`, by file name, with the reason. Raises `SnapshotError`."""
        found = {}
        for name, copy in self.index(version).databases.items():
            reason = self._mismatch(copy)
            if reason and Path(copy.path).name not in NEVER:
                found[name] = f"{copy.path}: {reason}"
        return found

    def _mismatch(self, copy: Copy) -> str:
        path = self.host.path(copy.path)
        if not path.exists():
            return "it is gone"
        try:
            with connected(path, "ro") as connection:
                found = user_version(connection)
        except sqlite3.DatabaseError as error:
            if _code(error) in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
                return f"it is damaged ({error})"
            raise SnapshotError(f"{copy.path}: {error}") from error
        return "" if found == copy.user_version else f"its schema is {found}, {copy.user_version} is known"

    def restore(self, version: str, left: str) -> None:
        """Put back what `due` names; what was in place is kept as `*.from-LEFT`. Raises `SnapshotError`.

        Nothing but this may have the databases open. Cut anywhere, it is simply done again.
        """
        index = self.index(version)
        for name in self.due(version):
            try:
                self._put_back(self.directory / version / name, index.databases[name], left)
            except (OSError, sqlite3.Error) as error:
                raise SnapshotError(f"{index.databases[name].path} could not be restored: {error}") from error

    def _put_back(self, snapshot: Path, copy: Copy, left: str) -> None:
        target = self.host.path(copy.path)
        staged = target.with_name(f".{target.name}.restoring")
        faults.point(f"restore:{snapshot.name}")
        _stage(snapshot, staged)
        owner = target.stat() if target.exists() else None  # users' numbers may differ between images
        os.chown(staged, owner.st_uid if owner else copy.uid, owner.st_gid if owner else copy.gid)
        staged.chmod(copy.mode)
        flush(staged)
        faults.point(f"restore aside:{snapshot.name}")
        if owner:
            _close_log(target)
            _keep(target, f"{target.name}.from-{left}")
        faults.point(f"restore rename:{snapshot.name}")
        staged.replace(target)
        flush_directory(target.parent)
        faults.point(f"restored:{snapshot.name}")

    # -- what there is ------------------------------------------------------------------------------------------------

    def index(self, version: str) -> Index:
        """What the snapshot of a version holds; nothing when there is none. Raises `SnapshotError`."""
        try:
            return decode(read_limited(self.directory / version / INDEX, 1 << 20), Index, INDEX)
        except FileNotFoundError:
            return Index()
        except (OSError, Unreadable) as error:
            raise SnapshotError(f"The snapshot of {version} cannot be read: {error}") from error

    def versions(self) -> list[str]:
        """Versions with a complete snapshot."""
        return sorted(path.parent.name for path in self.directory.glob(f"*/{INDEX}"))

    def failed(self, version: str, reason: str | None = None) -> str:
        """Note why a restore failed (with a reason), or read it. Raises `OSError`."""
        path = self.directory / version / FAILED
        if reason is not None:
            write_json(path, Problem(reason))
            return reason
        try:
            return decode(read_limited(path, 1 << 16), Problem, FAILED).reason
        except (OSError, Unreadable):
            return ""

    def forget(self, version: str) -> None:
        """Remove the snapshot of a version; its index goes first, so that no half one is ever restored."""
        home = self.directory / version
        if home.exists():
            faults.point(f"forget:{version}")
            (home / INDEX).unlink(missing_ok=True)
            faults.point(f"forget rest:{version}")
            shutil.rmtree(home, ignore_errors=True)

    def keep(self, versions: set[str]) -> None:
        """Forget every snapshot but those of these versions."""
        for path in sorted(self.directory.iterdir()) if self.directory.is_dir() else ():
            if path.name not in versions:
                self.forget(path.name)


def file_name(path: str) -> str:
    """The snapshot's file name of a database: its path with `--` for slashes."""
    return path.strip("/").replace("/", "--")


@contextlib.contextmanager
def connected(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """A connection that is closed again. SQLite gives the files it makes beside it to the database's owner."""
    connection = sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?mode={mode}", uri=True, timeout=10.0)
    try:
        yield connection
    finally:
        connection.close()


def user_version(connection: sqlite3.Connection) -> int:
    """The schema's number."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def back_up(source: Path, target: Path) -> int:
    """Copy a live database whole; the copy's schema number. Raises `sqlite3.Error`, `OSError`."""
    ends = time.monotonic() + DEADLINE

    def watch(_status: int, _remaining: int, _total: int) -> None:
        if time.monotonic() > ends:
            raise OSError(errno.ETIMEDOUT, f"{source} was busy for {DEADLINE:.0f} s")

    with connected(source, "ro") as reader, connected(target, "rwc") as writer:
        reader.backup(writer, progress=watch)
        writer.execute("PRAGMA journal_mode=DELETE")
        return user_version(writer)


def flush(path: Path) -> None:
    """Make a file's content durable. Raises `OSError`."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _stage(snapshot: Path, staged: Path) -> None:
    """Lay the snapshot beside its target; where there is no room for a second copy, the snapshot itself."""
    if not snapshot.exists() and staged.exists():
        return  # it was moved, and the power failed
    try:
        faults.point(f"restore copy:{snapshot.name}")
        shutil.copyfile(snapshot, staged)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        snapshot.replace(staged)


def _close_log(target: Path) -> None:
    """Fold the write-ahead log into the database: a log left behind would be replayed into the one that comes."""
    try:
        with connected(target, "rw") as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            mode = connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0]
        if mode != "delete":
            raise OSError(errno.EBUSY, f"{target} is in use")
    except sqlite3.DatabaseError as error:
        if _code(error) not in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
            raise
        for suffix in ("-wal", "-shm", "-journal"):
            target.with_name(target.name + suffix).unlink(missing_ok=True)


def _keep(target: Path, name: str) -> None:
    """A second name for what is about to be replaced; the oldest such go."""
    aside = target.with_name(name)
    aside.unlink(missing_ok=True)
    os.link(target, aside)
    kept = sorted(target.parent.glob(f"{glob.escape(target.name)}.from-*"), key=lambda path: path.stat().st_ctime)
    for old in kept[:-ASIDES]:
        old.unlink(missing_ok=True)


def _code(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
