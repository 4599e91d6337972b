"""The TUF client as its command line: what the public conformance suite asks, and each attack, over real HTTP."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets

from appliance_update import web
from appliance_update.cli import main
from appliance_update.tuf_client import CheckError, Client, signing_time
from tests.appliance_update.tuf_site import Site, days, new_key
from tests.appliance_update.web_server import LOGIN_PAGE, WebServer

DAY = 86_400.0
FIRST = ["/metadata/2.root.json", "/metadata/timestamp.json", "/metadata/1.snapshot.json", "/metadata/1.targets.json"]
ALL_ONE = {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}


@dataclass
class World:
    """A repository, its web server, and a client that knows the first root."""

    site: Site
    server: WebServer
    cache: Path
    downloads: Path

    def run(self, *arguments: str) -> int:
        done = CliRunner().invoke(main, ["tuf-client", "--metadata-dir", str(self.cache), *arguments])
        assert "Traceback" not in done.output
        assert done.exit_code == 0 or done.output, "a failure says why"
        return done.exit_code

    def init(self) -> int:
        return self.run("init", str(self.site.trusted))

    def refresh(self) -> int:
        return self.run("--metadata-url", f"{self.server.url}metadata", "refresh")

    def download(self, *names: str) -> int:
        wanted = [word for name in names for word in ("--target-name", name)]
        places = ["--target-base-url", f"{self.server.url}targets", "--target-dir", str(self.downloads)]
        return self.run("--metadata-url", f"{self.server.url}metadata", *wanted, *places, "download")

    def refresh_at(self, now: float) -> str:
        """Why a refresh at that time (seconds since the epoch) fails; empty when it does not."""
        client = Client(f"{self.server.url}metadata", self.cache, web.session("test"))
        try:
            client.refresh(now)
        except CheckError as error:
            return str(error)
        return ""

    def trusted(self) -> dict[str, int]:
        return {path.stem: Metadata.from_file(str(path)).signed.version for path in self.cache.glob("*.json")}

    def asked(self) -> list[str]:
        """What was requested since the last call."""
        paths = [path for path, _ in self.server.requests]
        self.server.requests.clear()
        return paths

    def fetched(self) -> list[bytes]:
        return sorted(path.read_bytes() for path in self.downloads.rglob("*") if path.is_file())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    site = Site(tmp_path / "site")
    server = WebServer(site.directory)
    made = World(site, server, tmp_path / "metadata", tmp_path / "downloads")
    assert made.init() == 0
    yield made
    server.close()


# -- the protocol -----------------------------------------------------------------------------------------------------


def test_init_fetches_nothing(world: World) -> None:
    assert world.asked() == []
    assert world.trusted() == {"root": 1}


def test_refresh_walks_root_timestamp_snapshot_targets_and_keeps_what_was_served(world: World) -> None:
    assert world.refresh() == 0
    assert world.asked() == FIRST
    assert world.trusted() == ALL_ONE
    for role, name in (("timestamp", "timestamp.json"), ("targets", "1.targets.json")):
        assert (world.cache / f"{role}.json").read_bytes() == (world.site.metadata / name).read_bytes()


def test_what_is_known_is_not_fetched_again(world: World) -> None:
    world.refresh()
    world.asked()
    assert world.refresh() == 0
    assert world.asked() == FIRST[:2]


def test_download_refreshes_first_and_fails_for_a_target_nobody_signed(world: World) -> None:
    assert world.download("nothing.txt") == 1
    assert world.asked() == FIRST
    assert world.trusted() == ALL_ONE


def test_a_target_is_stored_and_not_fetched_twice(world: World) -> None:
    world.site.add_target("path/to/file.txt", b"content")
    world.site.bump("targets", "snapshot", "timestamp")
    assert world.download("path/to/file.txt") == 0
    assert world.fetched() == [b"content"]
    world.asked()
    assert world.download("path/to/file.txt") == 0
    assert [path for path in world.asked() if "/targets/" in path] == []


def test_several_targets_are_processed_in_order_and_the_first_failure_ends_it(world: World) -> None:
    world.site.add_target("one", b"1")
    world.site.add_target("three", b"3")
    world.site.bump("targets", "snapshot", "timestamp")
    assert world.download("one", "two", "three") == 1
    assert world.fetched() == [b"1"]


def test_a_changed_target_replaces_the_old_file(world: World) -> None:
    for content in (b"old", b"new"):
        world.site.add_target("file", content)
        world.site.bump("targets", "snapshot", "timestamp")
        assert world.download("file") == 0
    assert world.fetched() == [b"new"]


@pytest.mark.parametrize("wrong", [b"other bytes", b"conten", b"content and more", LOGIN_PAGE, b""])
def test_a_file_that_is_not_what_was_signed_is_not_stored(world: World, wrong: bytes) -> None:
    world.site.add_target("file", b"content", serve=wrong)
    world.site.bump("targets", "snapshot", "timestamp")
    assert world.download("file") == 1
    assert world.fetched() == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["refresh"],
        ["init"],
        ["init", "/nothing/here"],
        ["download"],
        ["--metadata-url", "x", "download"],
        ["--what"],
    ],
)
def test_every_misuse_ends_with_exit_code_1(world: World, arguments: list[str]) -> None:
    assert world.run(*arguments) == 1


def test_the_installed_program_speaks_it_too(world: World) -> None:
    program = Path(sys.executable).with_name("appliance-update")
    options = ["--metadata-url", f"{world.server.url}metadata", "--metadata-dir", str(world.cache)]
    assert subprocess.run([program, "tuf-client", *options, "refresh"], check=False).returncode == 0
    world.site.write("timestamp", signers=[])
    assert subprocess.run([program, "tuf-client", *options, "refresh"], check=False).returncode == 1


# -- signatures, thresholds, names ------------------------------------------------------------------------------------

STEPS = ["root", "timestamp", "snapshot", "targets"]


@pytest.mark.parametrize("role", STEPS)
@pytest.mark.parametrize("spoil", ["unsigned", "wrong key"])
def test_metadata_without_a_right_signature_ends_the_walk_there(world: World, role: str, spoil: str) -> None:
    world.site.bump("root")
    world.site.bump_all()
    world.site.write(role, signers=[] if spoil == "unsigned" else [new_key()])
    assert world.refresh() == 1
    known = world.trusted()
    assert known["root"] == (2 if role == "root" else 3)
    assert set(known) == {"root", *STEPS[1 : STEPS.index(role)]}


@pytest.mark.parametrize("role", STEPS)
def test_a_threshold_counts_different_keys(world: World, role: str) -> None:
    if role == "root":
        world.site.rotate_root(count=3, threshold=2)
        world.site.root.version += 1
    else:
        world.site.give_role(role, count=3, threshold=2)
        world.site.bump_all()
    one, two, _ = world.site.signers[role]
    world.site.write(role, signers=[one])
    assert world.refresh() == 1
    world.site.write(role, signers=[one, one])
    assert world.refresh() == 1
    world.site.write(role, signers=[one, two])
    assert world.refresh() == 0


@pytest.mark.parametrize("role", ["root", "snapshot", "targets"])
def test_a_version_that_differs_from_the_one_asked_for_is_refused(world: World, role: str) -> None:
    world.refresh()
    world.site.bump_all()
    number = world.site.signed[role].version
    world.site.signed[role].version += 1
    world.site.write(role, name=f"{number}.{role}.json")
    assert world.refresh() == 1


@pytest.mark.parametrize("role", STEPS)
def test_a_broken_document_is_refused(world: World, role: str) -> None:
    world.site.bump_all()
    name = "timestamp.json" if role == "timestamp" else f"2.{role}.json"
    for nonsense in (b"", b"{", b'{"signed": {}, "signatures": []}', b"[" * 3000, b"\xff\xfe\x00"):
        (world.site.metadata / name).write_bytes(nonsense)
        assert world.refresh() == 1


def test_a_missing_snapshot_or_targets_version_is_refused(world: World) -> None:
    world.refresh()
    for role in ("snapshot", "targets"):
        world.site.bump_all()
        (world.site.metadata / f"{world.site.signed[role].version}.{role}.json").unlink()
        assert world.refresh() == 1


# -- root rotation ----------------------------------------------------------------------------------------------------


def test_a_client_follows_hundreds_of_roots_whose_keys_all_changed(world: World) -> None:
    for _ in range(300):
        world.site.rotate_root()
    world.site.bump("targets", "snapshot", "timestamp")
    assert world.refresh() == 0
    assert world.trusted()["root"] == 301


def test_a_root_that_only_the_old_keys_signed_is_refused(world: World) -> None:
    old = world.site.give_role("root")
    world.site.root.version += 1
    world.site.write("root", signers=old)
    assert world.refresh() == 1
    assert world.trusted() == {"root": 1}


def test_a_root_that_only_the_new_keys_signed_is_refused(world: World) -> None:
    world.site.give_role("root")
    world.site.root.version += 1
    world.site.write("root")
    assert world.refresh() == 1
    assert world.trusted() == {"root": 1}


def test_a_gap_in_the_roots_ends_the_walk_before_it(world: World) -> None:
    world.site.bump("root")
    world.site.bump("root")
    (world.site.metadata / "2.root.json").unlink()
    assert world.refresh() == 0
    assert world.trusted()["root"] == 1


def test_roots_on_the_way_may_have_expired_the_last_one_not(world: World) -> None:
    for when in (-30, -10, 300):
        world.site.root.expires = days(when)
        world.site.bump("root")
    assert world.refresh() == 0
    world.site.root.expires = days(-1)
    world.site.bump("root")
    assert world.refresh() == 1


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_keys_that_were_rotated_many_times_while_it_was_off_are_followed(world: World, role: str) -> None:
    world.refresh()
    for _ in range(6):
        world.site.rotate(role)
    assert world.refresh() == 0
    assert world.trusted()[role] == 7


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_what_a_replaced_key_signs_is_refused(world: World, role: str) -> None:
    old = world.site.signers[role]
    world.site.rotate(role)
    world.site.bump_all()
    world.site.write(role, signers=old)
    assert world.refresh() == 1


# -- expiry, rollback, freeze, mix and match --------------------------------------------------------------------------


@pytest.mark.parametrize("role", STEPS)
def test_expired_metadata_is_refused(world: World, role: str) -> None:
    world.refresh()
    world.site.signed[role].expires = days(-1)
    world.site.bump_all()
    assert world.refresh() == 1
    assert world.trusted().get("targets") == 1


@pytest.mark.parametrize("role", STEPS)
def test_local_metadata_that_has_expired_is_replaced(world: World, role: str) -> None:
    world.site.signed[role].expires = days(7)
    world.site.bump_all()
    assert world.refresh() == 0
    world.site.signed[role].expires = days(60)
    world.site.bump_all()
    assert world.refresh_at(time.time() + 18 * DAY) == ""


def test_a_frozen_repository_is_noticed_when_its_timestamp_expires(world: World) -> None:
    world.site.signed["timestamp"].expires = days(3)
    world.site.bump("timestamp")
    assert world.refresh() == 0
    assert world.refresh_at(time.time() + 2 * DAY) == ""
    assert "expired" in world.refresh_at(time.time() + 4 * DAY)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_older_versions_are_refused(world: World, role: str) -> None:
    """Also when the roles above them are newer and rightly signed."""
    world.site.bump_all()
    world.site.bump_all()
    assert world.refresh() == 0
    world.site.signed[role].version -= 1
    world.site.write(role)
    for above in {"targets": ["snapshot", "timestamp"], "snapshot": ["timestamp"], "timestamp": []}[role]:
        world.site.signed[above].version += 1
        world.site.write(above)
    assert world.refresh() == 1
    assert world.trusted()[role] == 3


def test_a_role_that_is_gone_from_the_snapshot_is_refused(world: World) -> None:
    world.refresh()
    snapshot = world.site.signed["snapshot"]
    snapshot.version += 1
    snapshot.meta = {}
    metadata = Metadata(snapshot)
    metadata.sign(world.site.signers["snapshot"][0])
    (world.site.metadata / "2.snapshot.json").write_bytes(metadata.to_bytes())
    world.site.bump("timestamp")
    assert world.refresh() == 1


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_metadata_of_another_moment_does_not_fit(world: World, role: str) -> None:
    world.refresh()
    world.site.bump_all()
    (world.site.metadata / f"2.{role}.json").write_bytes((world.site.metadata / f"1.{role}.json").read_bytes())
    assert world.refresh() == 1


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_version_run_up_by_a_thief_is_forgotten_with_his_key(world: World, role: str) -> None:
    """Fast-forward: the highest version there can be, signed with a stolen key, that is then replaced."""
    world.site.signed[role].version = 2**31
    world.site.write(role)
    world.site.bump("timestamp") if role == "snapshot" else None
    assert world.refresh() == 0
    world.site.signed["snapshot"].version = world.site.signed["timestamp"].version = 1
    world.site.give_role("snapshot")
    world.site.give_role("timestamp")
    world.site.bump_all()
    assert world.refresh() == 0
    assert world.trusted()[role] == 2


def test_the_same_timestamp_version_with_other_content_is_not_taken(world: World) -> None:
    world.refresh()
    world.site.signed["snapshot"].version = 7
    world.site.write("timestamp")
    assert world.refresh() == 0
    assert Metadata.from_file(str(world.cache / "timestamp.json")).signed.snapshot_meta.version == 1


# -- the clock rule ---------------------------------------------------------------------------------------------------


def test_the_time_at_which_known_metadata_was_signed_counts_when_the_clock_says_1970(world: World) -> None:
    stamp = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
    world.site.signed["timestamp"].unrecognized_fields["x-appliance-signed-at"] = stamp
    world.site.bump("timestamp")
    assert world.refresh_at(40.0) == ""
    world.site.signed["timestamp"].expires = days(-1)
    world.site.bump("timestamp")
    assert "expired" in world.refresh_at(40.0)


@pytest.mark.parametrize(
    "value", [None, 7, "", "yesterday", "9" * 400, "2026-13-01T00:00:00Z", ["2026-01-01T00:00:00Z"]]
)
def test_a_senseless_signing_time_is_no_time(value: object) -> None:
    targets = Targets(unrecognized_fields={"x-appliance-signed-at": value})
    assert signing_time(targets) == 0.0


# -- delegations (releases need none; other repositories have them) ---------------------------------------------------


def delegate(site: Site, role: str, path: str, by: str = "targets") -> CryptoSigner:
    key = new_key()
    own = DelegatedRole(role, [key.public_key.keyid], 1, False, paths=[path])
    above = site.signed[by]
    above.delegations = above.delegations or Delegations({}, {})
    above.delegations.keys[key.public_key.keyid] = key.public_key
    above.delegations.roles[role] = own
    site.signers[role], site.signed[role] = [key], Targets(expires=days(30))
    return key


@pytest.mark.parametrize("role", ["delegated", "?", "#", "/delegated", "../delegated"])
def test_a_delegated_role_is_walked_under_its_quoted_name(world: World, role: str) -> None:
    delegate(world.site, role, "sub/*")
    world.site.add_target("sub/file", b"delegated", role)
    world.site.bump_all()
    assert world.download("sub/file") == 0
    assert world.fetched() == [b"delegated"]
    assert len(list(world.cache.glob("*.json"))) == 5


def test_a_role_that_one_delegator_vouches_for_is_not_vouched_for_by_another(world: World) -> None:
    """Found by the public conformance suite in python-tuf before 7.0.1, the image's."""
    for parent, path in (("parent-a", "a/*"), ("parent-b", "b/*")):
        delegate(world.site, parent, path)
    right = delegate(world.site, "shared", "a/*", by="parent-a")
    delegate(world.site, "shared", "b/*", by="parent-b")
    world.site.signers["shared"] = [right]
    world.site.add_target("a/file", b"vouched for", "shared")
    world.site.add_target("b/file", b"not vouched for", "shared")
    world.site.bump_all()
    assert world.download("a/file", "b/file") == 1
    assert world.fetched() == [b"vouched for"]


def test_a_delegated_role_signs_only_what_it_was_given(world: World) -> None:
    delegate(world.site, "delegated", "sub/*")
    world.site.add_target("other/file", b"not its own", "delegated")
    world.site.bump_all()
    assert world.download("other/file") == 1


# -- a real update comes through the same client ----------------------------------------------------------------------


@pytest.fixture
def damaged() -> Iterator[Callable[[Path], None]]:
    def damage(cache: Path) -> None:
        for path in cache.iterdir():
            if path.is_file():
                path.write_bytes(b"\0" * 100)

    yield damage


def test_a_cache_of_zeroes_is_fetched_anew_from_the_images_root(
    world: World, damaged: Callable[[Path], None], tmp_path: Path
) -> None:
    trusted = world.site.trusted.read_bytes()
    client = Client(f"{world.server.url}metadata", tmp_path / "cache", web.session("test"), trusted)
    client.refresh(time.time())
    damaged(tmp_path / "cache")
    client.refresh(time.time())
    assert Metadata[Root].from_file(str(tmp_path / "cache/root.json")).signed.version == 1


def test_an_image_with_a_newer_root_begins_there(world: World, tmp_path: Path) -> None:
    world.site.rotate_root()
    world.site.rotate_root()
    newest = (world.site.metadata / "3.root.json").read_bytes()
    shutil.rmtree(world.cache)
    Client(f"{world.server.url}metadata", world.cache, web.session("test"), newest).refresh(time.time())
    assert "/metadata/2.root.json" not in world.asked()
