"""Keys come and go; no device, wherever it stands, meets a moment in which root and metadata do not fit."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tuf.api.metadata import Metadata, Root

from appliance_release import keys
from appliance_release.cli import main
from appliance_release.keys import KeyFileError
from appliance_release.releases import PublishError
from appliance_release.repository import Repository
from appliance_release.rotation import overview, renew_root, revoke_key, rotate
from appliance_release.verifying import problems
from tests.appliance_release.conftest import V1, V2, Provider, make_provider

ROLES = ("root", "targets", "snapshot", "timestamp")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Provider]:
    """Root needs two of three keys, targets one of two."""
    made = make_provider(tmp_path, root=3, targets=2)
    yield made
    made.server.close()


def ids(root: Root, role: str) -> set[str]:
    return set(root.roles[role].keyids)


@pytest.mark.parametrize("role", ROLES)
def test_a_rotated_role_has_only_new_keys_and_every_device_goes_on(provider: Provider, role: str) -> None:
    provider.publish(V1)
    old, before = provider.device(), provider.site.root()
    old.refresh(time.time())
    done = rotate(provider.site, role)
    after = provider.site.root()
    assert after.version == done.version == 2
    assert ids(after, role) & ids(before, role) == set()
    assert all(ids(after, other) == ids(before, other) for other in ROLES if other != role)
    assert problems(provider.site) == []
    old.refresh(time.time())
    assert provider.offered() == [V1]
    provider.publish(V2)
    assert provider.offered() == [V1, V2]


@pytest.mark.parametrize("role", ROLES)
def test_at_every_file_written_old_and_new_devices_can_read(
    provider: Provider, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.publish(V1)
    known = provider.device()
    known.refresh(time.time())
    write, written = Repository.write, []

    def watched(self: Repository, signed: Any, own: str, name: str, signers: list[Any]) -> Path:
        path = write(self, signed, own, name, signers)
        written.append(name)
        known.refresh(time.time())
        assert provider.offered() == [V1]
        return path

    monkeypatch.setattr(Repository, "write", watched)
    rotate(provider.site, role)
    assert written[-1] == "2.root.json"


def test_a_new_root_is_signed_by_the_old_threshold_and_by_the_new_one(shared: Provider) -> None:
    before = shared.site.root()
    rotate(shared.site, "root", count=3, threshold=3)
    metadata = Metadata[Root].from_file(str(shared.site.metadata / "2.root.json"))
    assert metadata.signed.roles["root"].threshold == 3
    assert len(ids(before, "root") & set(metadata.signatures)) >= 2
    assert ids(metadata.signed, "root") <= set(metadata.signatures)
    shared.device().refresh(time.time())


def test_a_rotation_keeps_number_and_threshold_unless_told_otherwise(shared: Provider) -> None:
    rotate(shared.site, "root")
    rotate(shared.site, "targets")
    after = shared.site.root()
    assert [(after.roles[role].threshold, len(ids(after, role))) for role in ("root", "targets")] == [(2, 3), (1, 2)]


def test_with_all_online_keys_lost_a_wrong_order_is_refused_before_anything_changes(provider: Provider) -> None:
    provider.publish(V1)
    shutil.rmtree(provider.site.keys / "online")
    with pytest.raises(KeyFileError, match="`appliance-release rotate timestamp`, then `rotate snapshot`"):
        rotate(provider.site, "snapshot")
    assert provider.site.root().version == 1
    rotate(provider.site, "timestamp")
    rotate(provider.site, "snapshot")
    assert problems(provider.site) == []
    assert provider.offered() == [V1]


def test_too_few_root_keys_at_hand_change_nothing(shared: Provider) -> None:
    folder = shared.site.ring.folder("root")
    (folder / "root-2.pem").unlink()
    (folder / "root-3.pem").unlink()
    before = sorted(folder.iterdir())
    with pytest.raises(KeyFileError, match="needs 2 of its 3 keys"):
        rotate(shared.site, "targets")
    assert sorted(folder.iterdir()) == before
    assert shared.site.root().version == 1


def test_replaced_keys_are_put_aside_and_their_files_are_not_needed(provider: Provider) -> None:
    done = rotate(provider.site, "snapshot")
    assert [path.parent.name for path in done.retired] == ["retired"]
    shutil.rmtree(done.retired[0].parent)
    provider.site.renew()
    assert problems(provider.site) == []


def test_a_lost_online_key_is_replaced_without_it(provider: Provider) -> None:
    provider.publish(V1)
    (provider.site.keys / "online/timestamp.pem").unlink()
    with pytest.raises(KeyFileError):
        provider.site.renew()
    rotate(provider.site, "timestamp")
    assert problems(provider.site) == []
    assert provider.offered() == [V1]


def test_many_rotations_later_the_first_image_still_finds_the_release(provider: Provider) -> None:
    for turn in range(12):
        rotate(provider.site, ROLES[turn % 4])
    provider.publish(V1)
    assert provider.offered() == [V1]


def test_a_revoked_key_signs_nothing_any_more(shared: Provider) -> None:
    shared.publish(V1)
    root = shared.site.root()
    first = next(iter(ids(root, "targets")))
    done = revoke_key(shared.site, first[:12])
    assert ids(shared.site.root(), "targets") == ids(root, "targets") - {first}
    assert len(done.retired) == 1
    assert shared.offered() == [V1]
    third = next(iter(ids(root, "root")))
    revoke_key(shared.site, third)
    assert problems(shared.site) == []
    assert shared.offered() == [V1]


def test_the_last_key_of_a_role_is_not_revoked(provider: Provider) -> None:
    only = next(iter(ids(provider.site.root(), "timestamp")))
    with pytest.raises(PublishError, match="use `rotate timestamp`"):
        revoke_key(provider.site, only)
    with pytest.raises(PublishError, match="No role has a key"):
        revoke_key(provider.site, "0" * 64)
    assert provider.site.root().version == 1


def test_the_root_is_renewed_with_the_same_keys(provider: Provider) -> None:
    late = replace(provider.site, now=provider.site.now + 700 * 86400)
    renew_root(late)
    late.renew(targets=True)
    assert problems(replace(late, now=late.now + 20 * 86400)) == []
    assert ids(late.root(), "root") == ids(Metadata[Root].from_file(str(late.metadata / "1.root.json")).signed, "root")


def test_verify_finds_a_missing_and_a_forged_link_in_the_chain_of_roots(provider: Provider) -> None:
    rotate(provider.site, "root")
    rotate(provider.site, "root")
    path = provider.site.metadata / "2.root.json"
    good = path.read_bytes()
    path.unlink()
    assert any(problem.startswith("2.root.json") for problem in problems(provider.site))
    document = json.loads(good)
    document["signed"]["expires"] = "2099-01-01T00:00:00Z"
    path.write_text(json.dumps(document))
    assert any(problem.startswith("2.root.json") for problem in problems(provider.site))


# -- where keys lie ---------------------------------------------------------------------------------------------------


def test_offline_keys_may_be_encrypted_and_lie_on_another_medium(tmp_path: Path) -> None:
    keys.generate(tmp_path / "keys", passphrase=b"a long sentence")
    (tmp_path / "keys/offline").rename(tmp_path / "medium")
    assert b"ENCRYPTED" in (tmp_path / "medium/root.pem").read_bytes()
    assert b"ENCRYPTED" not in (tmp_path / "keys/online/timestamp.pem").read_bytes()
    site = Repository(tmp_path / "site", tmp_path / "keys", time.time(), tmp_path / "medium", b"a long sentence")
    site.init()
    rotate(site, "targets")
    assert b"ENCRYPTED" in (tmp_path / "medium/targets-r2.pem").read_bytes()
    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        replace(site, passphrase=b"another").renew(targets=True)
    with pytest.raises(KeyFileError, match="is encrypted"):
        replace(site, passphrase=b"").renew(targets=True)
    replace(site, offline=None, passphrase=b"").renew()
    assert problems(site) == []


def test_new_private_keys_are_readable_for_their_owner_only(provider: Provider) -> None:
    for path in rotate(provider.site, "root", count=2).made:
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_command_line_rotates_revokes_and_shows_keys(tmp_path: Path) -> None:
    run = CliRunner()
    (tmp_path / "phrase").write_text("a long sentence\nand more\n")
    keys_ = str(tmp_path / "keys")
    made = run.invoke(main, ["keygen", keys_, "--count", "root=2", "--passphrase-file", f"{tmp_path}/phrase", "--json"])
    assert made.exit_code == 0
    options = ["--repository", f"{tmp_path}/site", "--keys", keys_, "--passphrase-file", f"{tmp_path}/phrase"]
    assert run.invoke(main, ["init", *options, "--threshold", "root=2"]).exit_code == 0
    done = run.invoke(main, ["rotate", *options, "targets", "--count", "2", "--json"])
    assert json.loads(done.stdout)["root_version"] == 2
    shown = json.loads(run.invoke(main, ["keys", *options, "--json"]).stdout)["roles"]
    assert [(entry["role"], entry["threshold"], len(entry["keys"])) for entry in shown][:2] == [
        ("root", 2, 2), ("targets", 1, 2),
    ]  # fmt: skip
    one = next(iter(shown[1]["keys"]))
    assert run.invoke(main, ["revoke", *options, "--key", one]).exit_code == 0
    assert run.invoke(main, ["verify", "--repository", f"{tmp_path}/site"]).exit_code == 0
    last = run.invoke(main, ["revoke", *options, "--key", next(iter(shown[2]["keys"]))])
    assert last.exit_code == 2
    assert "use `rotate snapshot`" in last.output


def test_the_overview_names_the_files_that_are_here(provider: Provider) -> None:
    (provider.site.keys / "offline/root.pem").rename(provider.directory / "safe.pem")
    files = {role: list(entry["keys"].values()) for role, entry in overview(provider.site).items()}
    assert files["root"] == [""]
    assert files["targets"] == [str(provider.site.keys / "offline/targets.pem")]
