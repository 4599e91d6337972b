"""Databases survive in both directions: kept before another version boots, given back when it is left again."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from appliance_update import faults
from appliance_update.snapshots import SnapshotError, Snapshots, file_name
from tests.appliance_update.conftest import V1, V2, V3, World
from tests.appliance_update.databases import AGENT, EVIDENCE, SCANNER, Services, opened
from tests.appliance_update.simulator import boot

MOST = 24
"""More steps than a restore has."""


class PowerCut(BaseException):
    pass


@pytest.fixture
def services(world: World) -> Services:
    made = Services(world.device)
    made.start()
    return made


def start(world: World, services: Services, healthy: bool | set[str] = True) -> str | None:
    """Power on: the databases come back where they must, then the services start, then the trial is settled."""
    version = boot(world.device, healthy=healthy)
    if version:
        world.restore()
        services.start()
        world.settle()
    return version


def snapshots(world: World) -> Snapshots:
    return world.updater().snapshots


# -- the plain way ----------------------------------------------------------------------------------------------------


def test_databases_are_snapshotted_before_the_new_version_can_boot(world: World, services: Services) -> None:
    world.publish(V2)
    order: list[str] = []
    faults.set_hook(order.append)
    world.updater().run()
    assert order.index("snapshotted:" + file_name(AGENT)) < order.index("uki:write")
    assert len([name for name in order if name == "snapshotted:" + file_name(AGENT)]) == 2, "and before the reboot"
    assert set(snapshots(world).index(V1).databases) == {file_name(AGENT), file_name(SCANNER)}


def test_evidence_is_never_snapshotted_even_when_a_pattern_names_it(world: World, services: Services) -> None:
    greedy = Snapshots(world.device.host, world.device.state / "snapshots", ("/var/lib/*/*.db",))
    assert file_name(EVIDENCE) not in greedy.take(V1).databases


def test_a_trial_that_commits_migrates_only_then(world: World, services: Services) -> None:
    services.knows[V2] = 2
    world.publish(V2)
    world.updater().run()
    assert boot(world.device, healthy=set(), limit=1) is None  # on trial
    services.start()
    assert services.schema() == 1
    start(world, services)
    services.start()  # the mark is gone
    assert services.schema() == 2
    assert services.rows() == [V1, V2, V2, V2]
    services.check_evidence()


def test_a_trial_that_fails_leaves_schema_and_rows_to_read_on(world: World, services: Services) -> None:
    """Both know the schema, so what was written on trial is not thrown away."""
    services.knows[V2] = 2
    world.publish(V2)
    world.updater().run()
    assert boot(world.device, healthy=set(), limit=1) is None
    services.start()
    assert start(world, services, healthy={V1}) == V1
    assert services.rows() == [V1, V2, V1]
    assert ("restored", V1) not in world.events()
    services.check_evidence()


def test_a_version_that_migrated_on_trial_all_the_same_is_undone(world: World, services: Services) -> None:
    services.knows[V2], services.hold = 2, False
    world.publish(V2)
    world.updater().run()
    assert boot(world.device, healthy=set(), limit=1) is None
    services.start()
    services.append("evidence of the failed trial")
    assert services.schema() == 2
    assert start(world, services, healthy={V1}) == V1
    assert (services.schema(), services.schema(SCANNER)) == (1, 1)
    assert services.rows() == [V1, V1]
    services.check_evidence()
    assert world.events().count(("restored", V1)) == 1


def test_what_was_replaced_is_kept_beside_and_the_owner_stays(world: World, services: Services) -> None:
    path = world.device.root / AGENT
    os.chown(path, 4711, 4712)
    path.chmod(0o640)
    services.knows[V2], services.hold = 2, False
    world.publish(V2)
    world.updater().run()
    boot(world.device, healthy=set(), limit=1)
    services.start()
    start(world, services, healthy={V1})
    facts = path.stat()
    assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o777) == (4711, 4712, 0o640)
    with opened(path.with_name(f"agent.db.from-{V2}")) as kept:
        assert [row[0] for row in kept.execute("SELECT content FROM rows")] == [V1, V2]


def test_looking_into_a_database_leaves_nothing_there_that_its_service_cannot_write(
    world: World, services: Services
) -> None:
    """We are root; SQLite makes a log and an index beside a database that nobody has open."""
    path = world.device.root / AGENT
    os.chown(path, 4711, 4712)
    made = snapshots(world)
    made.take(V1)
    made.due(V1)
    beside = [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")]
    assert {(found.stat().st_uid, found.stat().st_gid) for found in beside if found.exists()} <= {(4711, 4712)}


def test_a_snapshot_goes_when_nothing_can_be_rolled_back_to_it(world: World, services: Services) -> None:
    world.publish(V2)
    world.updater().run()
    start(world, services)
    assert snapshots(world).versions() == [V1], "the other slot may still be booted"
    world.publish(V3)
    world.updater().run()
    start(world, services)
    assert snapshots(world).versions() == [V2]


def test_after_a_rollback_the_snapshot_is_gone_so_that_it_never_comes_back_later(
    world: World, services: Services
) -> None:
    world.publish(V2)
    world.updater().run()
    start(world, services, healthy={V1})
    assert snapshots(world).versions() == []
    services.knows[V1] = 5  # whatever the version that runs does to its own databases
    services.start()
    start(world, services)
    assert services.schema() == 5


def test_an_earlier_life_of_a_version_does_not_come_back_with_it(world: World, services: Services) -> None:
    """V1 was left weeks ago and comes again as a downgrade: it reads on."""
    services.knows |= {V2: 2}
    world.publish(V2)
    world.updater().run()
    start(world, services)
    services.start()
    assert snapshots(world).versions() == [V1]
    updater = world.updater()
    with updater.store.locked():
        updater.snapshots.forget(V1)  # what arming V1 does first
        updater.snapshots.take(V2)
    assert snapshots(world).due(V1) == {}


# -- databases in a bad state -----------------------------------------------------------------------------------------


def test_a_damaged_database_does_not_keep_the_repair_away(world: World, services: Services) -> None:
    (world.device.root / AGENT).write_bytes(b"not a database " * 1000)
    for suffix in ("-wal", "-shm"):
        (world.device.root / f"{AGENT}{suffix}").unlink(missing_ok=True)
    index = snapshots(world).take(V1)
    assert list(index.skipped) == [f"/{AGENT}"]
    assert file_name(SCANNER) in index.databases


@pytest.mark.parametrize("damage", ["gone", "garbage"])
def test_a_database_that_another_version_ruined_comes_back(world: World, services: Services, damage: str) -> None:
    made = snapshots(world)
    made.take(V1)
    for suffix in ("", "-wal", "-shm"):
        (world.device.root / f"{AGENT}{suffix}").unlink(missing_ok=True)
    if damage == "garbage":
        (world.device.root / AGENT).write_bytes(b"garbage" * 1000)
    made.restore(V1, V2)
    assert services.rows() == [V1]


def test_a_hot_log_of_the_newer_database_is_not_replayed_into_the_older_one(world: World, services: Services) -> None:
    made = snapshots(world)
    made.take(V1)
    newer = sqlite3.connect(world.device.root / AGENT, isolation_level=None)
    newer.execute("PRAGMA journal_mode=WAL")
    newer.execute("PRAGMA user_version=9")
    newer.execute("INSERT INTO rows (content) VALUES ('newer')")
    # A power cut: the files as they are, with no connection that tidies up.
    copies = {suffix: (world.device.root / f"{AGENT}{suffix}").read_bytes() for suffix in ("", "-wal", "-shm")}
    newer.close()
    for suffix, content in copies.items():
        (world.device.root / f"{AGENT}{suffix}").write_bytes(content)
    made.restore(V1, V2)
    assert (services.schema(), services.rows()) == (1, [V1])


def test_a_service_that_writes_meanwhile_is_snapshotted_whole(world: World, services: Services) -> None:
    with opened(world.device.root / AGENT) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO rows (content) VALUES ('half')")
        snapshots(world).take(V1)
        writer.execute("ROLLBACK")
    with opened(world.device.state / "snapshots" / V1 / file_name(AGENT)) as kept:
        assert kept.execute("SELECT count(*) FROM rows").fetchone() == (1,)


def test_a_link_is_not_followed_out_of_the_state_partition(world: World, services: Services, tmp_path: Path) -> None:
    (world.device.root / "var/lib/network-scanner/link.db").symlink_to(tmp_path / "elsewhere.db")
    shutil.copy(world.device.root / AGENT, tmp_path / "elsewhere.db")
    assert "var--lib--network-scanner--link.db" not in snapshots(world).take(V1).databases


def test_the_newest_two_replaced_databases_are_kept(world: World, services: Services) -> None:
    made = snapshots(world)
    made.take(V1)
    for name in ("one", "two", "three"):
        with opened(world.device.root / AGENT) as database:
            database.execute("PRAGMA user_version=9")
        made.restore(V1, name)
    kept = sorted(path.name for path in (world.device.root / AGENT).parent.glob("agent.db.from-*"))
    assert kept == ["agent.db.from-three", "agent.db.from-two"]


# -- power cuts and failing disks -------------------------------------------------------------------------------------


def at(number: int, error: BaseException, seen: list[str]) -> None:
    def hook(name: str) -> None:
        seen.append(name)
        if len(seen) == number + 1:
            raise error

    faults.set_hook(hook)


def test_a_power_cut_anywhere_in_a_snapshot_leaves_a_whole_one_or_none(world: World, services: Services) -> None:
    made = snapshots(world)
    for number in range(MOST):
        shutil.rmtree(made.directory, ignore_errors=True)
        seen: list[str] = []
        at(number, PowerCut(), seen)
        with contextlib.suppress(PowerCut):
            made.take(V1)
        faults.set_hook(None)
        if number >= len(seen):
            break
        assert made.versions() in ([], [V1])
        assert made.due(V1) == {}
        made.take(V1)
        assert made.versions() == [V1]
        assert not [name for name in os.listdir(made.directory / V1) if name.startswith(".")]
    assert number >= 8


@pytest.mark.parametrize("again", [1, 2])
def test_a_power_cut_anywhere_in_a_restore_ends_in_the_snapshot(world: World, services: Services, again: int) -> None:
    """Also when the power fails a second time at the same place."""
    made = snapshots(world)
    made.take(V1)
    for number in range(MOST):
        for name in (AGENT, SCANNER):
            with opened(world.device.root / name) as database:
                database.execute("PRAGMA user_version=7")
        reached = False
        for _ in range(again):
            seen: list[str] = []
            at(number, PowerCut(), seen)
            with contextlib.suppress(PowerCut):
                made.restore(V1, V2)
            faults.set_hook(None)
            reached = reached or len(seen) > number
        made.restore(V1, V2)
        assert (services.schema(), services.schema(SCANNER)) == (1, 1)
        assert services.rows() == [V1]
        if not reached:
            break
    assert number >= 8


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_anywhere_in_a_restore_loses_nothing(world: World, services: Services, code: int) -> None:
    made = snapshots(world)
    for number in range(MOST):
        made.take(V1)
        with opened(world.device.root / AGENT) as database:
            database.execute("PRAGMA user_version=7")
        seen: list[str] = []
        at(number, OSError(code, os.strerror(code)), seen)
        with contextlib.suppress(SnapshotError):
            made.restore(V1, V2)
        faults.set_hook(None)
        assert services.rows() == [V1]
        made.restore(V1, V2)
        assert services.schema() == 1
        if number >= len(seen):
            break
    assert number >= 4


def test_without_room_for_a_snapshot_nothing_is_armed(world: World, services: Services) -> None:
    world.publish(V2)
    faults.set_hook(lambda name: _no_space() if name.startswith("snapshot:") else None)
    with pytest.raises(Exception, match="could not be snapshotted"):
        world.updater().run()
    faults.set_hook(None)
    assert world.device.ukis() == [f"t640_{V1}.efi"]
    world.updater().run()
    assert start(world, services) == V2


def _no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_restore_that_fails_is_said_and_tried_again_at_the_next_boot(world: World, services: Services) -> None:
    """`appliance-update-restore` never fails the boot; its snapshot stays until it worked."""
    services.knows[V2], services.hold = 2, False
    world.publish(V2)
    world.updater().run()
    boot(world.device, healthy=set(), limit=1)
    services.start()
    boot(world.device, healthy={V1})
    made = snapshots(world)
    made.failed(V1, "the disk was full")
    world.settle()
    assert made.versions() == [V1]
    world.restore()
    assert services.schema() == 1
