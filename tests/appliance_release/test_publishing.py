"""What is said of a release, from the command line to a device; and taking one out."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance_release import publishing
from appliance_release.cli import main
from appliance_release.options import moment
from appliance_release.releases import Downgrade, PublishError
from appliance_release.repository import SIGNED_AT, Repository
from appliance_release.rotation import renew_root
from appliance_release.verifying import problems
from appliance_update.choice import Situation, choose
from appliance_update.release import Cohort
from tests.appliance_release.conftest import V1, V2, V3, V10, Provider
from tests.appliance_update.simulator import make_build

DAY = 86_400.0
needs_chunker = pytest.mark.skipif(
    not (shutil.which("desync") or shutil.which("casync")), reason="neither desync nor casync is installed"
)


def next_of(provider: Provider, running: str, epoch: int = 0) -> str | None:
    seen = provider.seen()
    found = choose(seen.releases, seen.beyond, Situation(running, time.time(), epoch, "0" * 32)).release
    return found.version if found else None


def test_everything_that_is_said_of_a_release_arrives_on_the_device(provider: Provider) -> None:
    provider.publish(V1, security_epoch=2)
    provider.publish(
        V2, security_epoch=3, notes="Two.", reader=4, stepping_stone=True, from_versions=(V1, "2026.10.9"), cohort=40
    )
    release = next(item for item in provider.seen().releases if item.version == V2)
    assert release.from_versions == ("2026.10.9", V1)
    assert release.cohort == Cohort(40, V2)
    assert (release.security_epoch, release.reader, release.stepping_stone, release.notes) == (3, 4, True, "Two.")


@needs_chunker
def test_a_chunk_index_is_a_signed_file_and_its_chunks_lie_in_one_store(provider: Provider) -> None:
    provider.publish(V1, chunks=True)
    provider.publish(V2, chunks=True)
    release = provider.seen().releases[0]
    for artifact in release.artifacts:
        assert artifact.chunks is not None
        assert artifact.chunks.store == "chunks"
        directory, _, name = artifact.chunks.index.rpartition("/")
        index = provider.site.targets / directory / f"{artifact.chunks.sha256}.{name}"
        assert index.stat().st_size == artifact.chunks.length
    assert all(len(path.parent.name) == 4 for path in (provider.site.targets / "chunks").rglob("*.cacnk"))
    assert problems(provider.site) == []


@needs_chunker
def test_verify_misses_a_chunk_and_purging_keeps_those_that_are_shared(provider: Provider) -> None:
    provider.publish(V1, chunks=True)
    provider.publish(V2, chunks=True)
    publishing.revoke(provider.site, V1, "t640", "", purge=True, unproven=False)
    assert problems(provider.site) == []
    chunk = next(iter((provider.site.targets / "chunks").rglob("*.cacnk")))
    chunk.unlink()
    (problem,) = problems(provider.site)
    assert f"{chunk.stem} (No such file" in problem


@needs_chunker
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda _own, other: other, "its content is another one"),
        (lambda own, _other: own[:-1], "it cannot be unpacked"),
        (lambda _own, _other: b"<html>", "it cannot be unpacked"),
        (lambda own, _other: own[:-9] + bytes([own[-9] ^ 1]) + own[-8:], ""),
    ],
    ids=["another", "torn", "html", "flipped"],
)
def test_verify_reads_every_chunk(provider: Provider, damage: Callable[[bytes, bytes], bytes], why: str) -> None:
    provider.publish(V1, chunks=True)
    chunk, other, *_ = sorted((provider.site.targets / "chunks").rglob("*.cacnk"))
    chunk.write_bytes(damage(chunk.read_bytes(), other.read_bytes()))
    (problem,) = problems(provider.site)
    assert f"1 of its chunks cannot be used, the first is {chunk.stem} ({why}" in problem


def test_a_newer_reader_is_refused_until_a_stepping_stone_is_there(provider: Provider) -> None:
    provider.publish(V1)
    with pytest.raises(PublishError, match="Publish a stepping stone first"):
        provider.publish(V2, min_reader=2)
    assert provider.offered() == [V1]
    provider.publish(V2, stepping_stone=True, reader=2)
    provider.publish(V3, min_reader=2)
    assert next_of(provider, V1) == V2


def test_a_release_that_could_not_read_itself_is_refused(provider: Provider) -> None:
    with pytest.raises(PublishError, match="its own description"):
        provider.publish(V2, min_reader=3, reader=2)


def test_a_lower_security_epoch_is_refused(provider: Provider) -> None:
    provider.publish(V1, security_epoch=4)
    with pytest.raises(PublishError, match="refuse to go back"):
        provider.publish(V2, security_epoch=3)


# -- later changes ----------------------------------------------------------------------------------------------------


def test_a_rollout_is_widened_and_halted(provider: Provider) -> None:
    provider.publish(V1)
    provider.publish(V2, cohort=0)
    assert next_of(provider, V1) is None
    publishing.amend(provider.site, V2, "t640", cohort=100)
    assert next_of(provider, V1) == V2
    publishing.amend(provider.site, V2, "t640", cohort=0)
    assert next_of(provider, V1) is None


def test_widening_keeps_the_draw_and_what_this_publisher_does_not_know(provider: Provider) -> None:
    provider.publish(V1, cohort=10, salt="autumn")
    current = provider.site.load("targets").signed
    custom = next(target.custom for target in current.targets.values() if target.custom)["appliance_release"]
    custom["of-the-future"] = {"kept": True}
    current.version += 1
    provider.site.sign_targets(current)
    publishing.amend(provider.site, V1, "t640", cohort=50)
    targets = provider.site.load("targets").signed.targets.values()
    custom = next(target.custom for target in targets if target.custom)["appliance_release"]
    assert custom["cohort"] == {"percent": 50, "salt": "autumn"}
    assert custom["of-the-future"] == {"kept": True}


def test_versions_are_added_to_the_proven_ones(provider: Provider) -> None:
    provider.publish(V2, from_versions=("2026.10.1",))
    publishing.amend(provider.site, V2, "t640", from_versions=("2026.9.9",))
    assert provider.site.published()[0].from_versions == ("2026.9.9", "2026.10.1")


def test_a_release_for_all_is_not_narrowed_by_adding_a_proven_version(provider: Provider) -> None:
    provider.publish(V1)
    provider.publish(V2)
    with pytest.raises(PublishError, match="from every version already"):
        publishing.amend(provider.site, V2, "t640", from_versions=(V1,))
    assert provider.site.published()[1].from_versions == ()


def test_a_change_that_leaves_devices_behind_is_refused_unless_asked_for(provider: Provider) -> None:
    """Its epoch is lower: no device on the newer version could go back, and none would take that one any more."""
    provider.publish(V1)
    provider.publish(V2, security_epoch=1)
    back = Downgrade((V2,), time.time() + DAY)
    with pytest.raises(PublishError, match="no way to"):
        publishing.amend(provider.site, V1, "t640", downgrade=back)
    assert provider.site.published()[0].downgrade is None
    assert publishing.amend(provider.site, V1, "t640", downgrade=back, unproven=True).downgrade is not None


def test_a_version_that_differs_by_a_leading_zero_was_published_already(provider: Provider) -> None:
    provider.publish("2026.11.3")
    with pytest.raises(PublishError, match="published already"):
        provider.publish("2026.11.03")


def test_a_downgrade_leads_back_and_the_bad_version_is_not_taken_again(provider: Provider) -> None:
    provider.publish(V1)
    provider.publish(V2)
    publishing.amend(provider.site, V1, "t640", downgrade=Downgrade((V2,), time.time() + DAY))
    assert next_of(provider, V2) == V1
    assert next_of(provider, V1) is None
    provider.publish(V3)
    assert next_of(provider, V2) == V3
    assert next_of(provider, V1) == V3


def test_a_lower_version_is_published_only_as_a_downgrade(provider: Provider) -> None:
    provider.publish(V10)
    with pytest.raises(PublishError, match="must be higher"):
        provider.publish(V2)
    provider.publish(V2, downgrade=Downgrade((V10,), time.time() + DAY))
    assert next_of(provider, V10) == V2


def test_a_downgrade_upwards_is_refused(provider: Provider) -> None:
    with pytest.raises(PublishError, match="is no downgrade"):
        provider.publish(V2, downgrade=Downgrade((V1,), time.time() + DAY))


# -- revoking ---------------------------------------------------------------------------------------------------------


def test_a_revoked_version_is_offered_to_nobody_and_never_published_again(provider: Provider) -> None:
    provider.publish(V1)
    provider.publish(V2)
    publishing.revoke(provider.site, V2, "t640", "Its portal did not start.", purge=False, unproven=False)
    assert provider.offered() == [V1]
    assert next_of(provider, V1) is None
    with pytest.raises(PublishError, match="was published already"):
        provider.publish(V2)
    provider.publish(V3)
    assert next_of(provider, V2) == V3


def test_devices_on_a_revoked_version_are_not_forgotten(provider: Provider) -> None:
    provider.publish(V1)
    provider.publish(V2)
    publishing.revoke(provider.site, V2, "t640", "", purge=False, unproven=False)
    with pytest.raises(PublishError, match=rf"From {V2} there is no way to {V3}"):
        provider.publish(V3, from_versions=(V1,))


def test_a_stepping_stone_that_others_need_is_not_revoked(provider: Provider) -> None:
    provider.publish(V1)
    provider.publish(V2, stepping_stone=True, reader=2)
    provider.publish(V3, min_reader=2)
    with pytest.raises(PublishError, match="on the way of others"):
        publishing.revoke(provider.site, V2, "t640", "", purge=False, unproven=False)
    assert provider.offered() == [V1, V2]


def test_purging_deletes_the_files_of_what_was_revoked_only(provider: Provider) -> None:
    provider.publish(V1)
    provider.publish(V2)
    gone = publishing.revoke(provider.site, V1, "t640", "", purge=True, unproven=False)
    assert len(gone) == 3
    assert all(V1 in path.name for path in gone)
    assert problems(provider.site) == []


# -- time -------------------------------------------------------------------------------------------------------------


def test_a_publisher_whose_clock_went_back_signs_no_earlier_than_before(provider: Provider) -> None:
    """Devices have learnt the later time; metadata signed and expiring before it would look expired to them."""
    ahead = replace(provider.site, now=provider.site.now + 300 * DAY)
    ahead.renew(targets=True)
    publishing_now = replace(provider.site, now=time.time())
    publishing_now.renew()
    stamp = publishing_now.load("timestamp").signed
    assert stamp.unrecognized_fields[SIGNED_AT] == ahead.load("snapshot").signed.unrecognized_fields[SIGNED_AT]
    assert stamp.expires.timestamp() > ahead.now


@pytest.mark.parametrize("targets", [False, True])
def test_a_publisher_whose_clock_is_years_ahead_signs_nothing(provider: Provider, targets: bool) -> None:
    """Devices would learn that time, and find root and targets expired until all is signed in that year."""
    provider.publish(V1)
    device = provider.device()
    with pytest.raises(PublishError, match="See whether this machine's clock is right"):
        replace(provider.site, now=provider.site.now + 2000 * DAY).renew(targets=targets)
    device.refresh(time.time())
    provider.site.renew()
    device.refresh(time.time())


def test_years_later_for_real_all_is_signed_anew_with_the_offline_keys(provider: Provider) -> None:
    provider.publish(V1)
    late = replace(provider.site, now=provider.site.now + 2000 * DAY)
    renew_root(late)
    late.renew(targets=True)
    assert problems(late) == []
    provider.device().refresh(late.now)


@pytest.mark.parametrize(
    ("days", "role"), [(24, "timestamp"), (50, "snapshot"), (310, "targets"), (675, "root"), (31, "timestamp")]
)
def test_verify_names_what_expires_soon_and_what_renews_it(provider: Provider, days: int, role: str) -> None:
    provider.publish(V1)
    then = replace(provider.site, now=provider.site.now + days * DAY)
    found = {line.partition(":")[0]: line for line in problems(then)}
    assert role in found
    assert "`renew --root --targets`" in found[role] if role in ("root", "targets") else "`renew`" in found[role]
    assert ("expired on" in found[role]) == (days == 31)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2026-12-31", 1798761599.0), ("2026-12-31T18:00Z", 1798740000.0), ("2026-12-31T18:00+02:00", 1798732800.0)],
)
def test_a_day_means_its_end_and_times_are_utc_unless_they_say_otherwise(text: str, seconds: float) -> None:
    assert moment(text) == seconds


# -- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line_from_a_first_release_to_a_revoked_one(tmp_path: Path) -> None:
    run = CliRunner()
    builds = {version: make_build(tmp_path, version).directory for version in (V1, V2, V3)}
    options = ["--repository", str(tmp_path / "site"), "--keys", str(tmp_path / "keys")]

    def call(*arguments: str, code: int = 0) -> dict[str, object]:
        done = run.invoke(main, [arguments[0], *options, *arguments[1:]])
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return dict(json.loads(done.stdout)) if "--json" in arguments else {"said": done.stderr}

    run.invoke(main, ["keygen", str(tmp_path / "keys")])
    call("init", "--json")
    call("publish", "--version", V1, "--epoch", "1", str(builds[V1]))
    refused = call("publish", "--version", V2, "--epoch", "1", "--from-version", "2026.10.1", str(builds[V2]), code=2)
    assert "--from-version 2026.11.1" in str(refused["said"])
    shown = call("publish", "--version", V2, "--epoch", "1", "--from-version", V1, "--cohort", "5", "--json",
                 str(builds[V2]))  # fmt: skip
    assert (shown["cohort"], shown["from_versions"], shown["security_epoch"]) == (5, [V1], 1)
    assert call("amend", V2, "--cohort", "50", "--json")["cohort"] == 50
    back = call("amend", V1, "--downgrade-from", V2, "--downgrade-until", "2099-12-31", "--json")
    assert back["downgrade"] == {"from": [V2], "until": 4102444799.0}
    call("amend", V1, "--downgrade-from", V2, code=2)
    assert call("revoke", V2, "--purge", "--reason", "It did not start.", "--json")["revoked"] == V2
    call("revoke", code=2)
    call("publish", "--version", V3, "--epoch", "1", str(builds[V3]))
    assert set(dict(call("renew", "--targets", "--root", "--json")["expires"])) == {  # type: ignore[call-overload]
        "root", "targets", "snapshot", "timestamp",
    }  # fmt: skip
    verified = run.invoke(main, ["verify", "--json", "--repository", str(tmp_path / "site")])
    assert json.loads(verified.stdout) == {"problems": []}
    listed = run.invoke(main, ["list", "--json", "--repository", str(tmp_path / "site")]).output.splitlines()
    assert [json.loads(line)["version"] for line in listed] == [V1, V3]
    assert V3 in run.invoke(main, ["list", "--repository", str(tmp_path / "site")]).output


def test_two_publishers_at_once_wait_for_each_other(provider: Provider) -> None:
    import threading

    def renew() -> None:
        for _ in range(5):
            replace(provider.site, now=time.time()).renew()

    threads = [threading.Thread(target=renew) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert provider.site.load("timestamp").signed.version == 16
    assert problems(provider.site) == []


def test_a_directory_that_is_no_repository_is_named(tmp_path: Path, provider: Provider) -> None:
    with pytest.raises(PublishError, match="is no repository"):
        Repository(tmp_path / "nothing", provider.site.keys, time.time()).renew()
