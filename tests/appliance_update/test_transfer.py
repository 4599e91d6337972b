"""Fetching over the networks that clinics have."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance_update import faults, transfer
from appliance_update.config import Fetching
from appliance_update.layout import Role
from appliance_update.record import State
from appliance_update.updater import Failure, Outcome, UpdateError
from tests.appliance_update.conftest import V1, V2, World
from tests.appliance_update.simulator import boot, make_build, relabel
from tests.appliance_update.web_server import Proxy


def incompressible(world: World, version: str = V2) -> None:
    """A release whose data artifact has half a MiB as served."""
    build = make_build(world.directory, version, size=0)
    noise = os.urandom(512 * 1024)
    digest = hashlib.sha256(noise).hexdigest()
    for path in build.directory.iterdir():
        path.unlink()
    from tests.appliance_update.simulator import LENGTHS, pe_file

    verity = b"tree" * 100
    digest = hashlib.sha256(noise + verity).hexdigest()
    LENGTHS[digest] = len(noise), len(verity)
    (build.directory / f"t640_{version}.data.{digest[:32]}.raw").write_bytes(noise)
    (build.directory / f"t640_{version}.verity.{digest[32:]}.raw").write_bytes(verity)
    (build.directory / f"t640_{version}.efi").write_bytes(pe_file(f"roothash={digest} panic=10", version))
    world.put(build)


def data_requests(world: World) -> list[str | None]:
    return [wanted for path, wanted in world.server.requests if ".data." in path]


def test_a_connection_that_breaks_again_and_again_is_continued_where_it_broke(world: World) -> None:
    incompressible(world)
    world.server.only, world.server.cut_after = ".data.", 100_000
    assert world.updater().run()[0] is Outcome.REBOOTING
    offsets = [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted in data_requests(world)[1:] if wanted]
    assert len(offsets) >= 5
    assert offsets == sorted(set(offsets))
    assert boot(world.device) == V2


def test_a_download_cut_by_a_power_failure_goes_on_after_the_next_boot(world: World) -> None:
    incompressible(world)
    world.server.only, world.server.cut_after, world.server.cuts = ".data.", 300_000, 1

    class PowerCut(BaseException):
        pass

    def cut_at_second_try(name: str) -> None:
        if name == "chunk:data" and len(data_requests(world)) == 2:
            raise PowerCut

    faults.set_hook(cut_at_second_try)
    with pytest.raises(PowerCut):
        world.updater().run()
    faults.set_hook(None)
    assert world.updater().run()[0] is Outcome.REBOOTING
    first, second, third = data_requests(world)
    assert (first, second) == (None, third)
    assert second is not None


def test_a_server_that_ignores_range_is_read_from_the_start_and_not_appended(world: World) -> None:
    incompressible(world)
    world.server.only, world.server.cut_after, world.server.cuts = ".data.", 200_000, 1
    world.server.ranges = False
    assert world.updater().run()[0] is Outcome.REBOOTING
    assert boot(world.device) == V2


def test_an_answer_that_continues_elsewhere_is_not_appended(world: World) -> None:
    incompressible(world)
    world.server.only, world.server.cut_after, world.server.cuts = ".data.", 200_000, 1
    world.server.wrong_range = True
    assert world.updater().run()[0] is Outcome.REBOOTING
    assert [wanted is None for wanted in data_requests(world)] == [True, False, True]


def test_a_link_without_progress_gives_up_with_the_reason_and_keeps_what_it_has(world: World) -> None:
    incompressible(world)
    world.server.only, world.server.cut_after = ".data.", 0
    with pytest.raises(UpdateError, match="attempts without progress") as caught:
        world.updater().run()
    assert caught.value.failure is Failure.TRANSFER
    assert world.device.writes == 0


@pytest.mark.parametrize("where", [".data.", ".verity.", ".efi"])
def test_a_flipped_byte_is_found_and_deleted_and_fetched_anew(world: World, where: str) -> None:
    world.publish(V2)
    world.server.only, world.server.flip = where, 40
    with pytest.raises(UpdateError, match="not what was signed"):
        world.updater().run()
    assert world.device.writes == 0
    assert world.device.ukis() == [f"t640_{V1}.efi"]
    world.server.flip = None
    assert world.updater().run()[0] is Outcome.REBOOTING


def test_a_server_that_sends_more_than_was_signed_is_stopped(world: World) -> None:
    world.publish(V2)
    world.server.only, world.server.extra = ".data.", 10_000_000
    with pytest.raises(UpdateError, match="more than the"):
        world.updater().run()


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
@pytest.mark.parametrize("where", ["/metadata/", ".data."])
def test_a_captive_portals_login_page_is_recognised_as_such(world: World, where: str, content_type: str) -> None:
    world.publish(V2)
    world.server.only, world.server.login_page, world.server.login_type = where, True, content_type
    with pytest.raises(UpdateError, match="captive portal"):
        world.updater().run()
    world.server.login_page = False
    assert world.updater().run()[0] is Outcome.REBOOTING


def test_a_redirect_to_a_login_page_is_not_followed(world: World) -> None:
    world.publish(V2)
    world.server.redirect = "http://login.guest.test/"
    with pytest.raises(UpdateError, match=r"redirected to http://login\.guest\.test/"):
        world.updater().run()


def test_a_dead_server_is_one_event_however_often_it_is_asked(world: World) -> None:
    world.server.close()
    for _ in range(5):
        with pytest.raises(UpdateError, match="no connection") as caught:
            world.updater().run()
        assert caught.value.failure is Failure.CHECK
    assert [event for event, _ in world.events()] == ["check_failed"]
    assert world.updater().store.record.state is State.IDLE


def test_a_name_that_does_not_resolve_is_said_so(world: World) -> None:
    with pytest.raises(UpdateError, match="resolved"):
        world.updater(repository="http://updates.invalid/").run()


def test_a_dead_proxy_is_said_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(UpdateError, match="proxy"):
        world.updater(repository="http://updates.invalid/").run()


@pytest.fixture
def proxy(world: World) -> Iterator[Proxy]:
    made = Proxy(world.server.url)
    yield made
    made.close()


def test_a_configured_proxy_is_asked_for_everything(world: World, proxy: Proxy) -> None:
    world.publish(V2)
    far = {"repository": "http://updates.invalid/", "transfer": Fetching(proxy=proxy.url)}
    assert world.updater(**far).run()[0] is Outcome.REBOOTING
    assert all(url.startswith("http://updates.invalid/") for url in proxy.asked)
    assert len(proxy.asked) >= 6


def test_a_configured_proxy_comes_before_the_environments(
    world: World, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    world.publish(V2)
    far = {"repository": "http://updates.invalid/", "transfer": Fetching(proxy=proxy.url)}
    assert world.updater(**far).run()[0] is Outcome.REBOOTING


def test_the_environments_proxy_is_asked_where_none_is_configured(
    world: World, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    world.publish(V2)
    assert world.updater(repository="http://updates.invalid/").run()[0] is Outcome.REBOOTING
    assert proxy.asked


def test_this_machine_itself_is_asked_without_a_proxy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rehearsal fetches from loopback, whatever proxy there is for the rest of the world."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    world.publish(V2)
    assert world.updater(transfer=Fetching(proxy="http://127.0.0.1:9")).run()[0] is Outcome.REBOOTING


def test_a_proxy_that_demands_a_login_is_said_so_and_gets_it_from_its_url(world: World, proxy: Proxy) -> None:
    proxy.login = "Basic dXNlcjpzZWNyZXQ="
    world.publish(V2)
    with pytest.raises(UpdateError, match="the proxy demands a login"):
        world.updater(repository="http://updates.invalid/", transfer=Fetching(proxy=proxy.url)).run()
    own = proxy.url.replace("http://", "http://user:secret@")
    world.updater(repository="http://updates.invalid/", transfer=Fetching(proxy=own)).run()
    assert world.rebooted


@pytest.mark.parametrize("proxy_url", ["http://proxy.invalid:3128", "http://127.0.0.1:9", "nonsense://x"])
def test_a_proxy_that_cannot_be_asked_is_named_as_the_trouble(world: World, proxy_url: str) -> None:
    with pytest.raises(UpdateError, match="proxy"):
        world.updater(repository="http://updates.invalid/", transfer=Fetching(proxy=proxy_url)).run()


# -- servers and middle boxes that are too clever ---------------------------------------------------------------------


def test_an_artifact_that_somebody_packs_on_the_way_is_unpacked(world: World) -> None:
    incompressible(world)
    world.server.only, world.server.packed = ".data.", True
    assert world.updater().run()[0] is Outcome.REBOOTING
    assert boot(world.device) == V2


def test_metadata_that_somebody_packs_on_the_way_is_unpacked(world: World) -> None:
    world.publish(V2)
    world.server.only, world.server.packed = "/metadata/", True
    assert world.updater().run()[0] is Outcome.REBOOTING


def test_a_packed_part_is_not_appended_but_fetched_from_the_start(world: World) -> None:
    incompressible(world)
    world.server.only, world.server.cut_after, world.server.cuts = ".data.", 200_000, 1
    world.server.packed = True
    assert world.updater().run()[0] is Outcome.REBOOTING
    assert [wanted is None for wanted in data_requests(world)] == [True, False, True]


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity", "nonsense"])
def test_a_server_that_calls_a_plain_file_encoded_is_not_believed(world: World, encoding: str) -> None:
    incompressible(world)
    world.server.only, world.server.encoding = ".data.", encoding
    world.server.cut_after, world.server.cuts = 200_000, 1
    assert world.updater().run()[0] is Outcome.REBOOTING
    assert boot(world.device) == V2


@pytest.mark.parametrize("wrong", [-100_000, -1, 1, 100_000])
def test_a_wrong_content_length_costs_another_request_at_most(world: World, wrong: int) -> None:
    incompressible(world)
    world.server.only, world.server.said_length = ".data.", wrong
    assert world.updater().run()[0] is Outcome.REBOOTING
    assert boot(world.device) == V2


def test_a_server_that_yields_a_few_bytes_at_a_time_is_given_up(world: World) -> None:
    incompressible(world)
    world.server.only, world.server.cut_after = ".data.", 50
    with pytest.raises(UpdateError, match="attempts without progress"):
        world.updater().run()
    assert len(data_requests(world)) < 10


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
def test_a_server_that_refuses_is_named_with_its_status(world: World, status: int) -> None:
    world.publish(V2)
    world.server.only, world.server.status = ".data.", status
    with pytest.raises(UpdateError, match=f"answered {status}"):
        world.updater().run()
    world.server.status = 0
    assert world.updater().run()[0] is Outcome.REBOOTING


# -- room -------------------------------------------------------------------------------------------------------------


def test_a_full_esp_is_found_before_the_first_byte(world: World) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "esp", world.device.esp], check=True)
    try:
        world.device.uki_directory.mkdir(parents=True)
        (world.device.uki_directory / f"t640_{V1}.efi").write_bytes(b"running")
        world.publish(V2)
        with pytest.raises(UpdateError, match=r"ESP at .* has room for"):
            world.updater().run()
        assert data_requests(world) == []
    finally:
        subprocess.run(["umount", "--lazy", world.device.esp], check=True)


def test_a_slot_that_is_too_small_is_found_before_the_first_byte(world: World) -> None:
    build = world.publish(V2)
    number = world.device.layout.number(Role.DATA, "b")
    relabel(world.device.disk, number, size=len(build.data) // 512 * 512 - 512)
    with pytest.raises(UpdateError, match="this disk was not made from this layout"):
        world.updater().run()
    assert data_requests(world) == []


def test_when_evidence_has_no_room_left_what_was_fetched_makes_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    incompressible(world)
    world.server.only, world.server.cut_after = ".data.", 0
    downloads = world.device.state / "downloads"
    with pytest.raises(UpdateError):
        world.updater().run()
    assert downloads.exists()
    monkeypatch.setattr(transfer, "RESERVE", 1 << 60)
    with pytest.raises(UpdateError, match="make room"):
        world.updater().run()
    assert not downloads.exists()


def test_space_is_checked_before_the_first_byte(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish(V2)
    monkeypatch.setattr(transfer, "RESERVE", 1 << 60)
    with pytest.raises(UpdateError, match="are free; make room"):
        world.updater().run()
    assert data_requests(world) == []


@pytest.fixture
def tiny_state(world: World) -> Iterator[World]:
    """The state directory on a tmpfs of 512 KiB."""
    world.device.state.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tiny", world.device.state], check=True)
    yield world
    subprocess.run(["umount", "--lazy", world.device.state], check=True)


def test_a_full_state_partition_is_an_error_with_a_reason_and_heals(
    tiny_state: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = tiny_state
    monkeypatch.setattr(
        transfer, "RESERVE", -(1 << 40)
    )  # the preflight is blind: somebody else fills the disk meanwhile
    world.publish(V2)
    filler = world.device.state / "evidence"
    filler.write_bytes(os.urandom(300 * 1024))
    with pytest.raises((UpdateError, OSError)):
        world.updater().run()
    assert world.device.ukis() == [f"t640_{V1}.efi"]
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", world.device.state], check=True)
    assert world.updater().run()[0] is Outcome.REBOOTING


def test_a_full_esp_is_found_before_anything_is_taken_away(world: World) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "esp", world.device.esp], check=True)
    try:
        world.device.uki_directory.mkdir(parents=True)
        (world.device.uki_directory / f"t640_{V1}.efi").write_bytes(b"running")
        world.publish(V2)
        with pytest.raises(UpdateError, match=r"ESP at .* has room for"):
            world.updater().run()
        assert world.device.writes == 0
        assert world.device.ukis() == [f"t640_{V1}.efi"]
    finally:
        subprocess.run(["umount", "--lazy", world.device.esp], check=True)


def test_holes_of_an_image_stay_holes_in_the_staging_directory(world: World) -> None:
    world.publish(V2)
    updater = world.updater()
    with updater.store.locked():
        from appliance_update.settle import settle

        settle(updater.store, updater.host, updater.layout)
        release = updater.fetch()
    assert release is not None
    artifact = release.artifact(Role.DATA)
    staged = updater.transfer.staged(release, artifact)
    assert staged.stat().st_size == artifact.content_length
    assert transfer.hash_file(staged, lambda _: None) == (artifact.content_sha256, artifact.content_length)


def test_what_another_release_left_behind_is_removed(world: World) -> None:
    world.publish(V2)
    downloads = world.device.state / "downloads"
    downloads.mkdir(parents=True)
    (downloads / f"{'0' * 64}.part").write_bytes(b"old")
    world.updater().run()
    assert not list(world.device.state.glob("**/*.part"))


def test_a_compressed_bomb_is_stopped_at_the_signed_length(tmp_path: Path) -> None:
    from appliance_update.release import Artifact

    packed = tmp_path / "bomb.zst"
    subprocess.run(f"head -c 300000000 /dev/zero | zstd -q -o {packed}", shell=True, check=True)
    artifact = Artifact("data", "t640/x.raw.zst", packed.stat().st_size, "", 5_000_000, "")
    target = tmp_path / "out"
    _, length = transfer._unpack(packed, target, artifact, lambda _: None)
    assert 5_000_000 < length < 10_000_000
