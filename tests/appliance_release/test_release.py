"""The publisher: what it makes is a TUF repository, and what must not be published is refused before it is signed."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from appliance_release import keys, publishing
from appliance_release.artifacts import ArtifactError, checked_version, collect, root_hash
from appliance_release.cli import main
from appliance_release.repository import Description, PublishError, Repository
from appliance_release.verifying import problems
from tests.appliance_update.simulator import make_build

V1, V2, V10 = "2026.11.1", "2026.11.2", "2026.11.10"
DAY = 24 * 3600.0


@pytest.fixture(scope="module")
def key_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    keys.generate(directory)
    return directory


@pytest.fixture
def repository(tmp_path: Path, key_directory: Path) -> Repository:
    made = Repository(tmp_path / "repository", key_directory, time.time())
    made.init()
    return made


def publish(repository: Repository, parent: Path, version: str, **changes: object) -> Path:
    build = make_build(parent, version)
    description = replace(Description(version), **changes)  # type: ignore[arg-type]
    publishing.publish(repository, description, collect((build.directory,), version), level=1)
    return build.directory


def test_a_new_repository_is_empty_valid_and_has_consistent_snapshots(repository: Repository) -> None:
    assert repository.published() == []
    assert problems(repository) == []
    assert Metadata[Root].from_file(str(repository.metadata / "1.root.json")).signed.consistent_snapshot


def test_root_and_targets_keys_are_apart_from_those_of_snapshot_and_timestamp(key_directory: Path) -> None:
    assert sorted(path.name for path in (key_directory / "offline").iterdir()) == ["root.pem", "targets.pem"]
    assert sorted(path.name for path in (key_directory / "online").iterdir()) == ["snapshot.pem", "timestamp.pem"]
    assert {path.stat().st_mode & 0o777 for path in key_directory.glob("*/*.pem")} == {0o600}


def test_keys_are_never_overwritten(key_directory: Path) -> None:
    before = {path: path.read_bytes() for path in key_directory.glob("*/*.pem")}
    with pytest.raises(keys.KeyFileError, match="never overwritten"):
        keys.generate(key_directory)
    assert {path: path.read_bytes() for path in key_directory.glob("*/*.pem")} == before


def test_a_published_release_is_listed_and_verifies(repository: Repository, tmp_path: Path) -> None:
    publish(repository, tmp_path, V1)
    publish(repository, tmp_path, V2)
    publish(repository, tmp_path, V10)
    assert [release.version for release in repository.published()] == [V1, V2, V10]
    assert problems(repository) == []


@pytest.mark.parametrize("version", ["2026.11.1_rc", "2026.11.1+3", "1.0", "2026.11", "v2026.11.1", "", "2026.11.1 "])
def test_a_version_of_another_form_is_refused(version: str) -> None:
    with pytest.raises(ArtifactError, match=r"YYYY\.MM\.N"):
        checked_version(version)


@given(st.text(max_size=20))
def test_what_is_accepted_as_a_version_is_three_numbers(text: str) -> None:
    try:
        parts = checked_version(text)
    except ArtifactError:
        return
    assert len(parts) == 3
    assert not set(text) & set("_+/ ")


@pytest.mark.parametrize("version", [V2, V1])
def test_the_same_or_a_lower_version_is_refused(repository: Repository, tmp_path: Path, version: str) -> None:
    publish(repository, tmp_path, V2)
    before = sorted(repository.metadata.iterdir())
    with pytest.raises(PublishError, match="must be higher"):
        publish(repository, tmp_path, version)
    assert sorted(repository.metadata.iterdir()) == before


def test_another_device_class_has_its_own_versions(repository: Repository, tmp_path: Path) -> None:
    publish(repository, tmp_path, V2)
    publish(repository, tmp_path / "other", V1, device_classes=("t740",))
    assert problems(repository) == []


def test_a_kernel_image_of_another_build_is_refused(repository: Repository, tmp_path: Path) -> None:
    build = make_build(tmp_path, V1, root_hash="ab" * 32)
    with pytest.raises(ArtifactError, match="not of one build"):
        publishing.publish(repository, Description(V1), collect((build.directory,), V1))
    assert repository.published() == []


@pytest.mark.parametrize("content", [b"", b"MZ", b"MZ" + bytes(500), b"\x7fELF" + bytes(5000)])
def test_a_file_that_is_no_kernel_image_is_refused(tmp_path: Path, content: bytes) -> None:
    build = make_build(tmp_path, V1)
    next(build.directory.glob("*.efi")).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"\.efi"):
        root_hash(collect((build.directory,), V1))


@pytest.mark.parametrize(
    ("pattern", "named"),
    [("*.data.*", ".data.UUID.raw[.zst]"), ("*.verity.*", ".verity.UUID.raw[.zst]"), ("*.efi", ".efi")],
)
def test_an_incomplete_build_is_refused_by_the_name_of_what_is_missing(
    tmp_path: Path, pattern: str, named: str
) -> None:
    build = make_build(tmp_path, V1)
    next(build.directory.glob(pattern)).unlink()
    with pytest.raises(ArtifactError, match=re.escape(f"No *_{V1}{named} among 2 files")):
        collect((build.directory,), V1)


def test_a_strange_file_named_explicitly_is_refused_and_ignored_in_a_directory(tmp_path: Path) -> None:
    build = make_build(tmp_path, V1)
    other = build.directory / "notes.txt"
    other.write_text("x")
    assert len(collect((build.directory,), V1)) == 3
    with pytest.raises(ArtifactError, match=r"notes\.txt"):
        collect((build.directory, other), V1)


def test_an_already_compressed_artifact_is_served_as_it_is(repository: Repository, tmp_path: Path) -> None:
    build = make_build(tmp_path, V1)
    data = next(build.directory.glob("*.data.*"))
    subprocess.run(["zstd", "-q", "--rm", str(data)], check=True)
    packed = data.with_name(f"{data.name}.zst").read_bytes()
    publishing.publish(repository, Description(V1), collect((build.directory,), V1))
    assert next(repository.targets.glob("t640/*.data.*")).read_bytes() == packed


def test_a_missing_offline_key_is_found_before_anything_is_compressed(
    repository: Repository, tmp_path: Path, key_directory: Path
) -> None:
    (tmp_path / "online-only").mkdir()
    (tmp_path / "online-only/online").symlink_to(key_directory / "online")
    poor = replace(repository, keys=tmp_path / "online-only")
    with pytest.raises(keys.KeyFileError, match="Bring the offline keys"):
        publish(poor, tmp_path, V1)
    assert not (repository.targets / "t640").exists()


def test_renewing_needs_the_online_keys_alone(repository: Repository, tmp_path: Path, key_directory: Path) -> None:
    publish(repository, tmp_path, V1)
    late = replace(repository, now=repository.now + 40 * DAY)
    assert any("timestamp: expired" in problem for problem in problems(late))
    (tmp_path / "online-only").mkdir()
    (tmp_path / "online-only/online").symlink_to(key_directory / "online")
    replace(late, keys=tmp_path / "online-only").renew()
    assert problems(late) == []
    assert [release.version for release in late.published()] == [V1]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "not what was signed"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_verify_finds_a_spoiled_or_missing_file(
    repository: Repository, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    publish(repository, tmp_path, V1)
    spoil(next(repository.targets.glob("t640/*.data.*")))
    assert any(reason in problem for problem in problems(repository))


def test_verify_finds_metadata_changed_after_signing(repository: Repository, tmp_path: Path) -> None:
    publish(repository, tmp_path, V1)
    path = repository.metadata / "timestamp.json"
    document = json.loads(path.read_text())
    document["signed"]["expires"] = "2099-01-01T00:00:00Z"
    path.write_text(json.dumps(document))
    assert any(problem.startswith("timestamp") for problem in problems(repository))


def test_every_metadata_file_says_when_it_was_signed(repository: Repository, tmp_path: Path) -> None:
    publish(repository, tmp_path, V1)
    for path in repository.metadata.glob("*.json"):
        assert json.loads(path.read_text())["signed"]["x-appliance-signed-at"].endswith("Z")


def test_a_reader_in_the_middle_of_publishing_sees_the_old_or_the_new_state(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every file that is written, the chain from timestamp to targets is whole."""
    publish(repository, tmp_path, V1)
    seen: list[set[str]] = []
    original = Repository.write

    def watched(self: Repository, signed: Any, role: str, name: str, signers: list[Any]) -> Path:
        written = original(self, signed, role, name, signers)
        stamp = Metadata[Timestamp].from_file(str(self.metadata / "timestamp.json")).signed
        snapshot = Metadata[Snapshot].from_file(str(self.metadata / f"{stamp.snapshot_meta.version}.snapshot.json"))
        number = snapshot.signed.meta["targets.json"].version
        targets = Metadata[Targets].from_file(str(self.metadata / f"{number}.targets.json")).signed
        files = {path.rpartition("/")[2] for path in targets.targets}
        assert all(list(self.targets.glob(f"t640/*.{name}")) for name in files)
        seen.append({version for version in (V1, V2) if any(version in name for name in files)})
        return written

    monkeypatch.setattr(Repository, "write", watched)
    publish(repository, tmp_path, V2)
    assert seen == [{V1}, {V1}, {V1, V2}]


def test_the_command_line_from_keys_to_a_verified_list(tmp_path: Path) -> None:
    run = CliRunner()
    build = make_build(tmp_path, V1)
    options = ["--repository", str(tmp_path / "site"), "--keys", str(tmp_path / "keys")]
    assert run.invoke(main, ["keygen", str(tmp_path / "keys")]).exit_code == 0
    assert run.invoke(main, ["init", *options]).exit_code == 0
    done = run.invoke(main, ["publish", *options, "--version", V1, "--notes", "First.", str(build.directory)])
    assert done.exit_code == 0, done.output
    assert run.invoke(main, ["renew", *options]).exit_code == 0
    assert run.invoke(main, ["verify", "--repository", str(tmp_path / "site")]).exit_code == 0
    assert V1 in run.invoke(main, ["list", "--repository", str(tmp_path / "site")]).output
    listed = json.loads(run.invoke(main, ["list", "--json", "--repository", str(tmp_path / "site")]).output)
    assert listed["root_hash"] == build.root_hash


@pytest.mark.parametrize(
    "arguments",
    [
        ["init", "--repository", "{here}/none", "--keys", "{here}/no-keys"],
        ["list", "--repository", "{here}/none"],
        ["publish", "--repository", "{here}/none", "--keys", "{here}", "--version", "1", "{here}"],
    ],
)
def test_misuse_ends_with_code_2_and_a_sentence(tmp_path: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(main, [argument.format(here=tmp_path) for argument in arguments])
    assert done.exit_code == 2
    assert done.output.strip()
    assert "Traceback" not in done.output
