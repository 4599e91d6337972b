"""The golden corpus: what was ever published stays readable, and old updaters read what is published now.

Nothing in the corpus is ever changed or removed: devices that were written years ago still hold and meet these files.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from tuf.api.metadata import Metadata, Targets

from appliance_release import publishing
from appliance_release.artifacts import collect
from appliance_release.repository import Description, Downgrade, Repository
from appliance_update import web
from appliance_update.choice import Situation, choose
from appliance_update.layout import load as load_layout
from appliance_update.release import CUSTOM_KEY, SignedFile
from appliance_update.repository import Catalogue
from appliance_update.repository import Repository as Reader
from tests.appliance_update.simulator import LAYOUT, make_build
from tests.appliance_update.web_server import WebServer

CORPUS = Path(__file__).parent / "corpus"
DIGESTS = CORPUS / "SHA256SUMS"
LAYOUT_NOW = load_layout(LAYOUT)


# -- the corpus itself ------------------------------------------------------------------------------------------------


def listed() -> dict[str, str]:
    pairs = (line.split("  ", 1) for line in DIGESTS.read_text().splitlines())
    return {name: digest for digest, name in pairs}


@pytest.mark.parametrize("name", sorted(listed()))
def test_no_file_of_the_corpus_was_altered_or_removed(name: str) -> None:
    assert hashlib.sha256((CORPUS / name).read_bytes()).hexdigest() == listed()[name]


def test_every_file_of_the_corpus_is_listed() -> None:
    files = {str(path.relative_to(CORPUS)) for path in CORPUS.rglob("*") if path.is_file() and path != DIGESTS}
    files = {name for name in files if "__pycache__" not in name}
    assert files - set(listed()) == set(), f"add the new ones: (cd {CORPUS} && sha256sum FILE >> SHA256SUMS)"


# -- repositories that were published ---------------------------------------------------------------------------------


@pytest.fixture(params=sorted((CORPUS / "repository").iterdir()), ids=lambda path: path.name)
def published(request: pytest.FixtureRequest) -> Path:
    """A whole repository as it was served, its metadata at least."""
    return Path(request.param)


def read(server: WebServer, root: Path, cache: Path, now: float) -> Catalogue:
    reader = Reader(server.url, cache, root, web.session("test"))
    return reader.refresh(LAYOUT_NOW, "t640", "standin", now)


@pytest.fixture
def server(published: Path) -> Iterator[WebServer]:
    made = WebServer(published)
    yield made
    made.close()


def test_every_repository_ever_served_is_readable_from_each_of_its_roots(
    published: Path, server: WebServer, tmp_path: Path
) -> None:
    facts = json.loads((published / "facts.json").read_text())
    for root in sorted((published / "metadata").glob("*.root.json")):
        catalogue = read(server, root, tmp_path / root.name, facts["now"])
        assert sorted(release.version for release in catalogue.releases) == facts["releases"]
        assert [release.version for release in catalogue.beyond] == facts["beyond"]


def test_an_updater_chooses_the_same_way_through_it_for_ever(
    published: Path, server: WebServer, tmp_path: Path
) -> None:
    facts = json.loads((published / "facts.json").read_text())
    root = published / "metadata" / "1.root.json"
    catalogue = read(server, root, tmp_path / "cache", facts["now"])
    for running, wanted in facts["steps"].items():
        here = Situation(running, facts["now"], device_id="0123456789abcdef0123456789abcdef")
        found = choose(catalogue.releases, catalogue.beyond, here).release
        assert (found.version if found else None) == wanted


# -- readers that were shipped ----------------------------------------------------------------------------------------


@pytest.fixture(params=sorted((CORPUS / "reader").glob("*.py")), ids=lambda path: path.stem)
def old_reader(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The module `release` of an updater in the field, as it was shipped."""
    name = f"reader_{request.param.stem.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(name, request.param)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reader": 9, "stepping_stone": True},
        {"from_versions": ("2026.11.0", "2026.10.7")},
        {"cohort": 10, "salt": "autumn"},
        {"security_epoch": 7, "notes": "Ünïcode \u2028 too"},
        {"downgrade": Downgrade(("2026.12.1",), 1.8e9)},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_what_is_published_now_is_readable_by_every_updater_ever_shipped(
    old_reader: ModuleType, changes: dict[str, object], tmp_path: Path, key_directory: Path
) -> None:
    site = Repository(tmp_path / "site", key_directory, 1_795_262_400.0)
    site.init()
    build = make_build(tmp_path, "2026.11.1")
    description = replace(Description("2026.11.1"), **changes)  # type: ignore[arg-type]
    publishing.publish(site, description, collect((build.directory,), "2026.11.1"), 1, chunks=False, unproven=True)
    targets = Metadata[Targets].from_file(str(site.metadata / "2.targets.json")).signed.targets
    files = {path: old_reader.SignedFile(target.length, target.hashes["sha256"]) for path, target in targets.items()}
    custom = next(target.custom for target in targets.values() if target.custom)[CUSTOM_KEY]
    for artifact in custom["artifacts"]:
        artifact["chunks"] = {"index": f"{artifact['target']}.caibx", "store": "chunks", "format": "caibx"}
    admitted = old_reader.admit(custom, files, LAYOUT_NOW, "t640", "standin")
    assert admitted.version == "2026.11.1"
    assert admitted.root_hash == build.root_hash


def test_the_readers_in_the_corpus_are_what_was_shipped(old_reader: ModuleType) -> None:
    """They read the corpus of descriptions of their own time."""
    document = json.loads((CORPUS / "release" / "format-1.json").read_text())
    files = {name: old_reader.SignedFile(**facts) for name, facts in document["files"].items()}
    assert old_reader.admit(document["custom"][CUSTOM_KEY], files, LAYOUT_NOW, "t640", "standin").version == "2026.11.2"
    assert SignedFile is not old_reader.SignedFile


def test_an_altered_corpus_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    copy = tmp_path / "corpus"
    shutil.copytree(CORPUS, copy)
    (copy / "request" / "least.json").write_text("{}")
    monkeypatch.setattr(sys.modules[__name__], "CORPUS", copy)
    with pytest.raises(AssertionError):
        test_no_file_of_the_corpus_was_altered_or_removed("request/least.json")
