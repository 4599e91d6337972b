"""Cases 16 to 29: what comes over the network is broken, forged or old."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Timestamp

from appliance_release import keys
from appliance_release.repository import Repository
from tests.appliance_update.conftest import V2, V3, World
from tests.appliance_update.test_metadata import edit, metadata, rotate_root
from tests.faults.bench import Bench
from tests.faults.marks import fault

V4 = "2026.11.11"
YEAR = 365 * 24 * 3600.0


def refused(bench: Bench, *reasons: str) -> str:
    """One run that must end in a refusal with one of these words, and without a single write to a slot."""
    before = bench.world.device.writes
    said = bench.run()
    assert any(reason in said for reason in reasons), said
    assert bench.world.device.writes == before
    assert not any(V2 in name for name in bench.world.device.ukis())
    return said


@fault(16)
@pytest.mark.parametrize("only", [".data.", ".verity.", ".efi"])
def test_one_flipped_byte(bench: Bench, only: str) -> None:
    bench.publish(V2)
    bench.world.server.only, bench.world.server.flip = only, 40
    refused(bench, "is not what was signed", "not what", "differs", "does not match")
    bench.world.server.flip = None
    bench.holds(V3, "refused before the slot was touched")


@fault(17)
def test_a_truncated_artifact(bench: Bench) -> None:
    bench.publish(V2)
    target = next(path for path in (bench.world.publisher.directory / "targets").rglob("*.data.*"))
    whole = target.read_bytes()
    target.write_bytes(whole[: len(whole) // 2])
    refused(bench, "attempts without progress")
    target.write_bytes(whole)
    bench.holds(V3, "refused; fetched whole when the server had it whole")


@fault(18)
def test_metadata_signed_with_a_wrong_key(bench: Bench, tmp_path: Path) -> None:
    keys.generate(tmp_path / "other")
    world = bench.world
    good = world.directory / "good"
    shutil.copytree(metadata(world), good)
    forger = replace(world.publisher, keys=tmp_path / "other")
    _forge(world, forger)
    refused(bench, "not to be trusted")
    shutil.rmtree(metadata(world))
    shutil.copytree(good, metadata(world))
    bench.holds(V3, "not trusted; the genuine repository is")


def _forge(world: World, forger: Repository) -> None:
    """The genuine timestamp with somebody else's signature under it."""
    signer = keys.signer(forger.keys, "timestamp")
    path = metadata(world) / "timestamp.json"
    document: Metadata[Timestamp] = Metadata.from_file(str(path))
    document.signed.version += 1
    document.sign(signer)
    path.write_bytes(document.to_bytes())


@fault(19)
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_metadata_without_a_signature(bench: Bench, role: str) -> None:
    bench.publish(V2)
    newest = _newest(bench.world, role)
    whole = newest.read_bytes()
    edit(newest, lambda document: document["signatures"].clear())
    refused(bench, "not to be trusted")
    newest.write_bytes(whole)
    bench.holds(V3, "not trusted")


def _newest(world: World, role: str) -> Path:
    found = [path for path in metadata(world).iterdir() if path.name.endswith(f"{role}.json")]
    return max(found, key=lambda path: int(path.name.split(".")[0]) if path.name[0].isdigit() else 0)


@fault(20)
def test_old_metadata_replayed(bench: Bench) -> None:
    world = bench.world
    shutil.copytree(metadata(world), world.directory / "old")
    bench.publish(V2)
    bench.run()
    bench.boot()
    new = world.directory / "new"
    shutil.copytree(metadata(world), new)
    shutil.rmtree(metadata(world))
    shutil.copytree(world.directory / "old", metadata(world))
    assert "not to be trusted" in bench.run()
    assert bench.boot() == V2
    shutil.rmtree(metadata(world))
    shutil.copytree(new, metadata(world))
    bench.holds(V3, "an older version of the metadata is refused")


@fault(21)
def test_metadata_frozen_until_it_expired(bench: Bench) -> None:
    bench.publish(V2)
    bench.world.now = lambda: time.time() + YEAR
    said = refused(bench, "expired")
    assert "by our clock it is" in said
    bench.world.publisher = replace(bench.world.publisher, now=time.time())
    bench.world.now = time.time
    bench.holds(V3, "expired metadata is refused, and the message says which time was believed")


@fault(22)
def test_targets_of_one_release_mixed_with_anothers(bench: Bench) -> None:
    world = bench.world
    bench.publish(V2)
    old = _newest(world, "targets").read_bytes()
    bench.publish(V3)
    newest = _newest(world, "targets")
    genuine = newest.read_bytes()
    newest.write_bytes(old)
    refused(bench, "not to be trusted")
    newest.write_bytes(genuine)
    bench.holds(V4, "the snapshot names the targets by version and hash")


@fault(23)
def test_keys_rotated_several_times_while_the_device_was_off(bench: Bench) -> None:
    for _ in range(7):
        rotate_root(bench.world)
    bench.holds(V2, "seven roots followed, one after the other")


@fault(24)
def test_a_genuine_release_for_another_device_class(bench: Bench) -> None:
    bench.publish(V2, good=False, device_classes=("t740",))
    refused(bench, "it is for t740, not for a t640")
    bench.holds(V3, "named, and left alone")


def _unknown_fields(custom: dict[str, object]) -> None:
    custom.update({"colour": "blue", "format": 99, "nested": {"deep": [1, {"er": None}]}})


def _strange_artifact(custom: dict[str, object]) -> None:
    first, *rest = custom["artifacts"]  # type: ignore[misc]
    custom["artifacts"] = [first, *rest, {"role": "hologram", "target": first["target"], "shape": 7}]


def _no_optionals(custom: dict[str, object]) -> None:
    for name in set(custom) - {"version", "device_classes", "root_hash", "artifacts"}:
        del custom[name]


def _wrong_types(custom: dict[str, object]) -> None:
    custom.update({"artifacts": "three", "version": 7})


def _ten_megabytes(custom: dict[str, object]) -> None:
    custom["notes"] = "x" * 10_000_000


@fault(25)
@pytest.mark.parametrize(
    "change, readable",
    [
        (_unknown_fields, True),
        (_strange_artifact, True),
        (_no_optionals, True),
        (_wrong_types, False),
        (_ten_megabytes, False),
    ],
    ids=["unknown fields", "a strange artifact", "no optional fields", "wrong types", "ten megabytes"],
)
def test_a_description_of_another_time(
    bench: Bench, change: Callable[[dict[str, object]], None], readable: bool
) -> None:
    """Signed all the same: the publisher of another year made it. The next ordinary release is still taken."""
    bench.publish(V2, good=readable)
    _resign_targets(bench.world, change)
    said = bench.run()
    if readable:
        assert bench.boot() == V2, said
    else:
        assert not any(V2 in name for name in bench.world.device.ukis()), said
        _resign_targets(bench.world, lambda custom: None, drop=True)
    bench.holds(V3, "what can be read is taken, what cannot is named and passed over")


def _resign_targets(world: World, change: Callable[[dict[str, object]], None], *, drop: bool = False) -> None:
    """Change the newest release's description and sign as the publisher would."""
    targets = world.publisher.load("targets").signed
    targets.version += 1
    for name, target in list(targets.targets.items()):
        custom = (target.custom or {}).get("appliance_release")
        if custom is not None and drop:
            del targets.targets[name]
        elif custom is not None:
            change(custom)
    replace(world.publisher, now=world.now()).sign_targets(targets)


@fault(26)
@pytest.mark.parametrize("only", ["timestamp.json", ".data."])
def test_a_captive_portal_answers_200_with_a_page(bench: Bench, only: str) -> None:
    bench.publish(V2)
    bench.world.server.only, bench.world.server.login_page = only, True
    refused(bench, "login page", "captive portal", "web page", "HTML")
    bench.world.server.login_page = False
    bench.holds(V3, "recognised as a page, not as a broken download")


@fault(27)
def test_the_server_ignores_ranges_and_the_link_flaps(bench: Bench) -> None:
    bench.publish(V2)
    server = bench.world.server
    server.only, server.ranges, server.cut_after, server.cuts = ".data.", False, 200, 2
    bench.run()
    server.cuts = 0
    bench.holds(V3, "fetched from the start where the server cannot go on")


@fault(28)
@pytest.mark.parametrize("address", ["http://updates.invalid/", "http://127.0.0.1:9/"], ids=["no name", "nobody"])
def test_no_name_service_or_nobody_there(bench: Bench, address: str) -> None:
    bench.publish(V2)
    bench.run(repository=address)
    assert bench.world.settle().store.record.last_check_error
    bench.holds(V3, "said in the status; the next run asks again")


@fault(29)
def test_metadata_exchanged_while_it_is_being_fetched(bench: Bench) -> None:
    """A new release appears between timestamp and targets."""
    bench.publish(V2)
    world = bench.world
    serve, done = world.server.serve, False

    def exchange(handler: object) -> None:
        nonlocal done
        serve(handler)  # type: ignore[arg-type]
        if not done and "timestamp" in handler.path:  # type: ignore[attr-defined]
            done = True
            world.publish(V3)

    world.server.serve = exchange  # type: ignore[method-assign]
    bench.run()
    assert done
    bench.good.add(V3)
    bench.holds(V4, "consistent snapshots: the older set is whole, or the next run takes the newer one")
