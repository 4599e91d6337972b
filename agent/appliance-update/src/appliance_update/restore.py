"""The program `appliance-update-restore`: before the services start, give a version that was left its databases back.

It runs at every boot of a version that has a snapshot, knows nothing of networks and signatures, and never fails the
boot: what it could not do is in the history and is tried again at the next boot.
"""

from __future__ import annotations

import sys
from pathlib import Path

from appliance_update.config import CONFIG_FILE, Config, ConfigError, load
from appliance_update.history import Event
from appliance_update.host import Host
from appliance_update.snapshots import SnapshotError, Snapshots
from appliance_update.store import Busy, Store


def restore(store: Store, snapshots: Snapshots, version: str) -> str:
    """Restore what has to be; a sentence. Raises `SnapshotError`, `OSError`. The store is locked by the caller."""
    store.running_version = version
    due = snapshots.due(version)
    if not due:
        return f"{version} finds its databases as it knows them"
    candidate = store.record.candidate
    left = candidate.version if candidate else store.record.good_version
    left = left if left and left != version else "another-version"
    # Told before it is done: done, it would not be told any more after a power cut.
    store.note(Event.RESTORED, version=version, from_version=left, reason="; ".join(sorted(due.values())))
    snapshots.restore(version, left)
    return f"{len(due)} databases are as {version} left them: {'; '.join(sorted(due.values()))}"


def assembled(config: Config, host: Host) -> tuple[Store, Snapshots]:
    """Store and snapshots of this machine."""
    state = Path(config.paths.state)
    return (
        Store(state, Path(config.paths.runtime)),
        Snapshots(host, state / "snapshots", config.snapshot.databases),
    )


def main() -> None:
    """`appliance-update-restore`: 0 done or nothing to do, 1 something could not be restored."""
    host = Host()
    try:
        config, _ = load(Path(sys.argv[1]) if len(sys.argv) > 1 else CONFIG_FILE)
    except ConfigError as error:
        print(f"{error}; the defaults apply", file=sys.stderr)
        config = Config()
    store, snapshots = assembled(config, host)
    version = host.image_version
    if not version:
        return
    try:
        with store.locked():
            print(restore(store, snapshots, version))
    except (SnapshotError, Busy, OSError) as error:
        print(error, file=sys.stderr)
        try:
            snapshots.failed(version, str(error))
        except OSError as also:
            print(also, file=sys.stderr)
        sys.exit(1)
