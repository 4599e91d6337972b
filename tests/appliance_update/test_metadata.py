"""Only what the right keys signed, lately, for this device, is believed."""

from __future__ import annotations

import datetime
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import MetaFile, Snapshot, Targets, Timestamp

from appliance_release import keys
from appliance_release.publishing import amend
from appliance_release.repository import Repository
from appliance_release.rotation import rotate
from appliance_update.release import CUSTOM_KEY
from appliance_update.updater import Failure, Outcome, UpdateError
from tests.appliance_update.conftest import V1, V2, V3, World
from tests.appliance_update.simulator import boot, make_build

YEAR = 365 * 24 * 3600.0


def metadata(world: World) -> Path:
    return world.publisher.metadata


def refused(world: World, reason: str) -> None:
    with pytest.raises(UpdateError, match=reason) as caught:
        world.updater().run()
    assert caught.value.failure is Failure.CHECK
    assert world.device.writes == 0


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_metadata_changed_after_signing_is_refused(world: World) -> None:
    world.publish(V2)
    newest = sorted(metadata(world).glob("*.targets.json"))[-1]
    edit(newest, lambda document: document["signed"]["targets"].clear())
    refused(world, "not to be trusted")


def test_metadata_without_signatures_is_refused(world: World) -> None:
    world.publish(V2)
    edit(metadata(world) / "timestamp.json", lambda document: document["signatures"].clear())
    refused(world, "not to be trusted")


def test_a_repository_signed_by_other_keys_is_refused(world: World, tmp_path: Path) -> None:
    keys.generate(tmp_path / "other")
    shutil.rmtree(world.publisher.directory)
    other = replace(world.publisher, keys=tmp_path / "other")
    trusted = world.device.root / "trusted.json"
    trusted.write_bytes(b"")
    original = Repository(tmp_path / "first", world.publisher.keys, time.time()).init()
    other.init()
    paths = replace(world.config.paths, trusted_root=str(original))
    with pytest.raises(UpdateError, match="not to be trusted"):
        world.updater(paths=paths).run()


def test_expired_metadata_is_refused_and_the_message_names_our_time(world: World) -> None:
    world.publish(V2)
    world.now = lambda: time.time() + YEAR
    refused(world, "expired .* by our clock it is 20")


def test_a_clock_ten_years_ahead_does_no_lasting_harm(world: World) -> None:
    world.publish(V2)
    world.now = lambda: time.time() + 10 * YEAR
    refused(world, "the clock is wrong")
    world.now = time.time
    assert world.updater().run()[0] is Outcome.REBOOTING


def test_a_clock_at_1970_is_replaced_by_what_the_image_and_the_metadata_know(world: World) -> None:
    world.publish(V2)
    world.now = lambda: 40.0
    assert world.updater().run()[0] is Outcome.REBOOTING


def test_old_signed_metadata_is_found_expired_even_at_1970_when_the_image_is_younger(world: World) -> None:
    world.publish(V2)
    share = world.device.root / "usr/share/appliance-update"
    share.mkdir(parents=True)
    (share / "build-time").write_text(f"{time.time() + YEAR:.0f}\n")
    world.now = lambda: 40.0
    refused(world, "expired")


def test_the_time_of_signing_is_remembered_as_the_least_time_it_can_be(world: World) -> None:
    world.updater().run()
    floor = world.settle().store.record.time_floor
    assert abs(floor - time.time()) < 120
    world.now = lambda: 40.0
    updater = world.settle()
    assert updater.store.record.time_floor == floor


def signed_by_a_thief(world: World, role: str, ahead: float) -> None:
    """Metadata of an online role, signed with its key at a time `ahead` seconds from now."""
    thief = replace(world.publisher, now=time.time() + ahead)
    present = thief.load("timestamp").signed
    number, targets = present.snapshot_meta.version, thief.load("targets").signed.version
    if role == "snapshot":
        number += 1
        snapshot = Snapshot(version=number, expires=thief.expiry("snapshot"))
        snapshot.meta["targets.json"] = MetaFile(targets)
        thief.write(snapshot, "snapshot", f"{number}.snapshot.json", thief.signers("snapshot"))
    timestamp = Timestamp(version=present.version + 1, expires=thief.expiry("timestamp"))
    timestamp.snapshot_meta = MetaFile(number)
    thief.write(timestamp, "timestamp", "timestamp.json", thief.signers("timestamp"))


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_time_signed_far_ahead_by_a_stolen_online_key_is_forgotten_with_that_key(world: World, role: str) -> None:
    """Else one forged timestamp would end the updates of a whole fleet until everything is signed in that year."""
    world.publish(V2)
    world.settle().check()
    good = world.directory / "good"
    shutil.copytree(world.publisher.directory, good)
    signed_by_a_thief(world, role, 20 * YEAR)
    world.updater().check()  # what a refresh brings counts from the next one on
    with pytest.raises(UpdateError, match="expired"):
        world.updater().check()
    shutil.rmtree(world.publisher.directory)
    shutil.copytree(good, world.publisher.directory)
    rotate_keys(world, "timestamp", "snapshot")
    world.publish(V3)
    candidate = world.settle().check()
    assert candidate is not None
    assert candidate.version == V3
    assert world.updater().store.record.time_floor < time.time() + YEAR


def test_a_replayed_older_repository_is_refused(world: World) -> None:
    world.publish(V2)
    shutil.copytree(metadata(world), world.directory / "old")
    world.publish(V3)
    world.updater(reboot=False).run()
    boot(world.device)
    shutil.rmtree(metadata(world))
    shutil.copytree(world.directory / "old", metadata(world))
    world.settle()
    refused_at = world.device.writes
    with pytest.raises(UpdateError, match="not to be trusted"):
        world.updater().run()
    assert world.device.writes == refused_at


def test_targets_of_another_moment_do_not_fit_the_snapshot(world: World) -> None:
    world.publish(V2)
    old = sorted(metadata(world).glob("*.targets.json"))[-1].read_bytes()
    world.publish(V3)
    sorted(metadata(world).glob("*.targets.json"))[-1].write_bytes(old)
    refused(world, "not to be trusted")


def rotate_keys(world: World, *roles: str) -> None:
    """New keys by the publisher's own command, in a key folder of this world's own."""
    own = world.directory / "own-keys"
    if not own.exists():
        shutil.copytree(world.publisher.keys, own)
        world.publisher = replace(world.publisher, keys=own)
    for role in roles:
        rotate(world.publisher, role)


def rotate_root(world: World) -> None:
    """A new root key, signed by the old and the new one."""
    rotate_keys(world, "root")


def test_a_device_that_slept_through_several_root_rotations_follows_them_all(world: World) -> None:
    for _ in range(5):
        rotate_root(world)
    world.publish(V2)
    assert world.updater().run()[0] is Outcome.REBOOTING


def test_a_device_that_slept_through_rotations_of_every_role_follows_them(world: World) -> None:
    world.updater().run()
    rotate_keys(world, "targets", "timestamp", "root", "snapshot", "targets", "root", "timestamp")
    world.publish(V2)
    assert world.updater().run()[0] is Outcome.REBOOTING


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json", "root.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 500, b'{"signed": {}, "signatures": []}'])
def test_a_damaged_cache_is_fetched_anew(world: World, name: str, content: bytes) -> None:
    world.updater().run()
    path = world.device.state / "tuf" / name
    if path.is_symlink():
        path = path.resolve()
    path.write_bytes(content)
    world.publish(V2)
    assert world.updater().run()[0] is Outcome.REBOOTING


def test_an_oversized_timestamp_is_refused(world: World) -> None:
    (metadata(world) / "timestamp.json").write_bytes(b" " * 10_000_000)
    refused(world, "exceed")


def test_nonsense_instead_of_metadata_is_refused(world: World) -> None:
    for nonsense in (b"", b"\x00\xff\xfe", b"[" * 10_000, b'{"signed": 1, "signatures": 2}'):
        (metadata(world) / "timestamp.json").write_bytes(nonsense)
        refused(world, "metadata is not to be trusted|cannot be used")


def test_a_release_for_another_device_class_is_named_and_left_alone(world: World) -> None:
    world.publish(V2, device_classes=("t740",))
    outcome, sentence = world.updater().run()
    assert outcome is Outcome.UP_TO_DATE
    assert "it is for t740, not for a t640" in sentence


def test_a_release_of_the_other_flavour_is_left_alone(world: World) -> None:
    world.put(make_build(world.directory, V2, flavour="nixos"))
    assert "flavour 'nixos'" in world.updater().run()[1]


def test_a_release_that_needs_a_newer_updater_is_passed_over_for_a_stepping_stone(world: World) -> None:
    world.publish(V2)
    world.publish(V3, min_reader=99)
    assert world.updater().run()[1].startswith(V2)


def signed_anew(world: World, change: Callable[[Targets], None]) -> None:
    """What the publisher would never write, signed by its keys all the same."""
    current = world.publisher.load("targets").signed
    change(current)
    current.version += 1
    world.publisher.sign_targets(current)


def described(current: Targets, version: str) -> dict[str, Any]:
    found = [target.custom[CUSTOM_KEY] for target in current.targets.values() if target.custom]
    return next(custom for custom in found if custom["version"] == version)


SENSELESS: dict[str, Callable[[dict[str, Any]], object]] = {
    "10 MB of notes": lambda custom: custom.update(notes="x" * 10_000_000),
    "10 MB of unknown": lambda custom: custom.update(new={"y" * 100: ["z" * 100] * 100_000}),
    "a list": lambda custom: custom.update(version=["2026.11.10"]),
    "a truncated list": lambda custom: custom.update(artifacts=custom["artifacts"][:1]),
    "a truncated hash": lambda custom: custom.update(root_hash=custom["root_hash"][:40]),
    "a string for a number": lambda custom: custom.update(min_reader="1"),
    "a wrong cohort": lambda custom: custom.update(cohort={"percent": "all"}),
    "a wrong downgrade": lambda custom: custom.update(downgrade={"from": "everything", "until": 1}),
    "no class": lambda custom: custom.update(device_classes=[]),
    "nothing": lambda custom: custom.clear(),
}


@pytest.mark.parametrize("change", SENSELESS.values(), ids=SENSELESS)
def test_a_senseless_description_is_refused_and_another_release_of_the_catalogue_is_taken(
    world: World, change: Callable[[dict[str, Any]], object]
) -> None:
    world.publish(V2)
    world.publish(V3)
    signed_anew(world, lambda current: change(described(current, V3)) and None)
    updater = world.updater()
    assert updater.run()[1].startswith(V2)
    catalogue = updater.repository.refresh(updater.layout, "t640", "standin", time.time())
    assert len(catalogue.unsuitable) == 1
    assert all(len(reason) < 400 for reason in catalogue.unsuitable.values())


FORMS_OF_ANOTHER_YEAR: dict[str, Callable[[dict[str, Any]], object]] = {
    "an artifact of an unknown role": lambda custom: custom["artifacts"].append({"role": "firmware", "where": 7}),
    "a recovery without a target": lambda custom: custom["artifacts"].append({"role": "recovery", "layers": []}),
    "chunks of another format": lambda custom: custom["artifacts"][0].update(chunks={"format": "next", "tree": "a"}),
    "chunks that are a list": lambda custom: custom["artifacts"][0].update(chunks=["a", "b"]),
    "a recovery with a number": lambda custom: custom["artifacts"].append({"role": "recovery", "chunks": 1}),
}


@pytest.mark.parametrize("change", FORMS_OF_ANOTHER_YEAR.values(), ids=FORMS_OF_ANOTHER_YEAR)
def test_what_an_update_can_do_without_is_left_alone_in_any_form(
    world: World, change: Callable[[dict[str, Any]], object]
) -> None:
    world.publish(V2)
    signed_anew(world, lambda current: change(described(current, V2)) and None)
    assert world.updater().run()[0] is Outcome.REBOOTING


def test_targets_metadata_without_end_is_refused_and_the_device_lives_on(world: World) -> None:
    world.publish(V2)
    signed_anew(world, lambda current: current.unrecognized_fields.update(pad="x" * 17_000_000))
    refused(world, "16777216")
    signed_anew(world, lambda current: current.unrecognized_fields.pop("pad"))
    assert world.updater().run()[0] is Outcome.REBOOTING


def test_of_two_descriptions_of_one_version_neither_is_believed(world: World) -> None:
    world.publish(V2)
    world.publish(V3)
    signed_anew(world, lambda current: described(current, V3).update(described(current, V2)))
    outcome, sentence = world.updater().run()
    assert outcome is Outcome.UP_TO_DATE
    assert "described 2 times" in sentence


def test_a_lower_security_epoch_than_this_device_committed_is_refused(world: World) -> None:
    world.publish(V2, security_epoch=1)
    updater = world.updater()
    with updater.store.locked():
        updater.store.save(security_epoch=2)
    outcome, sentence = world.updater().run()
    assert outcome is Outcome.UP_TO_DATE
    assert "security epoch 1 is lower than 2" in sentence
    assert world.device.writes == 0


def test_a_rollout_comes_to_a_device_by_its_machine_id_alone(world: World) -> None:
    (world.device.root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    world.publish(V2, cohort=53)  # the device stands at 53 of 0 to 99 for this salt
    assert "rollout has not come" in world.updater().run()[1]
    amend(world.publisher, V2, "t640", cohort=54)
    assert world.updater().run()[0] is Outcome.REBOOTING
    assert not any("0123456789abcdef" in path for path, _ in world.server.requests)


def test_an_older_release_is_never_installed_over_a_newer_one(world: World) -> None:
    world.publish(V2)
    world.updater().run()
    boot(world.device)
    world.settle()
    shutil.rmtree(world.device.state / "tuf")
    assert world.updater().run() == (Outcome.UP_TO_DATE, f"{V2} is up to date")
    assert V1 < V2


def test_a_kernel_image_that_boots_another_slots_content_is_refused_before_writing(world: World) -> None:
    """The publisher refuses it too; here it is made to sign it."""
    build = make_build(world.directory, V2)
    wrong = make_build(world.directory / "wrong", V2, root_hash="ab" * 32)
    world.put(build)
    updater = world.updater()
    with updater.store.locked():
        from appliance_update.install import InstallError
        from appliance_update.settle import settle

        settle(updater.store, updater.host, updater.layout)
        release = updater.fetch()
        assert release is not None
        staged = updater.transfer.staged(release, release.artifacts[-1])
        staged.write_bytes(wrong.uki)
        with pytest.raises(InstallError, match="nothing was written"):
            updater.installer.fill_slot(release)
    assert world.device.writes == 0


def test_signed_times_are_read_from_our_publishers_metadata(world: World) -> None:
    document = json.loads((metadata(world) / "timestamp.json").read_text())
    signed = datetime.datetime.fromisoformat(document["signed"]["x-appliance-signed-at"].replace("Z", "+00:00"))
    assert abs(signed.timestamp() - time.time()) < 120
