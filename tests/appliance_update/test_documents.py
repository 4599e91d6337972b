"""What is read from disk or from others: any bytes at all give a value or a clear error, never a crash."""

from __future__ import annotations

import json
import os
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance_update import history, inbox, quarantine, record, status
from appliance_update.choice import Situation, choose
from appliance_update.config import Config, ConfigError, Window, load
from appliance_update.files import Unreadable
from appliance_update.history import Entry
from appliance_update.layout import load as load_layout
from appliance_update.record import Record, State
from appliance_update.release import CUSTOM_KEY, SignedFile, Unsuitable, admit, version_key
from tests.appliance_update.simulator import LAYOUT

CORPUS = Path(__file__).parent / "corpus"
LAYOUT_NOW = load_layout(LAYOUT)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def corpus(kind: str) -> list[Any]:
    found = sorted((CORPUS / kind).iterdir())
    assert found, f"the corpus of {kind} is empty"
    return [pytest.param(path, id=path.name) for path in found]


# -- the golden corpus: every format that was ever published or kept --------------------------------------------------


@pytest.mark.parametrize("path", corpus("release"))
def test_every_release_format_ever_published_is_readable(path: Path) -> None:
    document = json.loads(path.read_text())
    files = {name: SignedFile(**facts) for name, facts in document["files"].items()}
    release = admit(document["custom"][CUSTOM_KEY], files, LAYOUT_NOW, "t640", document["flavour"])
    assert release.version == document["version"]
    assert {artifact.role for artifact in release.artifacts} == {"data", "verity", "uki"}


@pytest.mark.parametrize("path", corpus("record"))
def test_every_record_format_ever_kept_is_readable(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "state.json"
    copy.write_bytes(path.read_bytes())
    kept, problem = record.load(copy)
    assert problem == ""
    assert kept.state in State


@pytest.mark.parametrize("path", corpus("config"))
def test_every_configuration_format_ever_shipped_is_readable(path: Path) -> None:
    config, warnings = load(path)
    assert config.device_class == "t640"
    assert [warning for warning in warnings if "future" not in warning] == []


@pytest.mark.parametrize("path", corpus("history"))
def test_every_history_ever_written_is_readable(path: Path) -> None:
    found, damaged = history.read(path)
    assert found
    assert damaged == 0


@pytest.mark.parametrize("path", corpus("request"))
def test_every_request_ever_dropped_is_readable(path: Path) -> None:
    assert inbox.parse(path.read_bytes()).order_id


# -- a release's description ------------------------------------------------------------------------------------------


def described() -> tuple[dict[str, Any], dict[str, SignedFile]]:
    document = json.loads((CORPUS / "release" / "format-1.json").read_text())
    return document["custom"][CUSTOM_KEY], {name: SignedFile(**facts) for name, facts in document["files"].items()}


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_any_description_is_admitted_or_unsuitable(custom: Any) -> None:
    with pytest.raises(Unsuitable):
        admit(custom, {}, LAYOUT_NOW, "t640", "standin")


@given(st.dictionaries(st.text(min_size=1, max_size=10).map(lambda key: f"new-{key}"), JSON, max_size=4))
@settings(max_examples=100, deadline=None)
def test_fields_of_the_future_are_ignored(future: dict[str, Any]) -> None:
    custom, files = described()
    custom["artifacts"] = [artifact | future for artifact in custom["artifacts"]]
    assert admit(custom | future, files, LAYOUT_NOW, "t640", "standin") == admit(
        *described(), LAYOUT_NOW, "t640", "standin"
    )


@given(st.sampled_from(sorted(described()[0])), JSON)
@settings(max_examples=200, deadline=None)
def test_a_field_of_the_wrong_type_never_crashes(name: str, value: Any) -> None:
    custom, files = described()
    try:
        release = admit(custom | {name: value}, files, LAYOUT_NOW, "t640", "standin")
    except Unsuitable as error:
        assert str(error)
    else:
        assert release.root_hash == described()[0]["root_hash"]


OPTIONAL = ("reader", "stepping_stone", "from_versions", "cohort", "downgrade", "security_epoch", "min_reader")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(OPTIONAL, JSON)), JSON, st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_whatever_an_optional_field_holds_the_device_chooses_or_says_why_not(
    fields: dict[str, Any], chunks: Any, running: int
) -> None:
    custom, files = described()
    custom["artifacts"] = [artifact | {"chunks": chunks} for artifact in custom["artifacts"]]
    try:
        admitted = [admit(custom | fields, files, LAYOUT_NOW, "t640", "standin")]
    except Unsuitable as error:
        assert str(error)
        admitted = []
    found = choose(admitted, (), Situation(f"2026.11.{running}", 1e9, device_id="0" * 32))
    assert found.release in admitted if found.release else found.sentence


@pytest.mark.parametrize("name", ["version", "device_classes", "root_hash", "artifacts"])
def test_a_missing_required_field_is_named(name: str) -> None:
    custom, files = described()
    del custom[name]
    with pytest.raises(Unsuitable, match=name):
        admit(custom, files, LAYOUT_NOW, "t640", "standin")


@pytest.mark.parametrize(
    "version",
    ["2026.11.0_1", "2026.11.0+3", "2026.11", "v2026.11.0", "2026.11.0/../..", "", "2026.11.0\n", "٢٠٢٦.11.0"],
)
def test_a_version_of_another_form_is_refused(version: str) -> None:
    custom, files = described()
    with pytest.raises(Unsuitable, match="version"):
        admit(custom | {"version": version}, files, LAYOUT_NOW, "t640", "standin")


def test_an_artifact_that_was_not_signed_is_refused() -> None:
    custom, files = described()
    files.popitem()
    with pytest.raises(Unsuitable, match="not among the signed files"):
        admit(custom, files, LAYOUT_NOW, "t640", "standin")


def test_partition_uuids_that_do_not_belong_to_the_root_hash_are_refused() -> None:
    custom, files = described()
    with pytest.raises(Unsuitable, match="does not belong to its root hash"):
        admit(custom | {"root_hash": "0" * 64}, files, LAYOUT_NOW, "t640", "standin")


def test_an_artifact_larger_than_its_slot_is_refused() -> None:
    custom, files = described()
    custom["artifacts"] = [artifact | {"content_length": 3072 * 1024**2 + 1} for artifact in custom["artifacts"]]
    with pytest.raises(Unsuitable, match="the slot has"):
        admit(custom, files, LAYOUT_NOW, "t640", "standin")


@given(st.lists(st.tuples(st.integers(2000, 2099), st.integers(1, 12), st.integers(0, 99999)), min_size=2, max_size=2))
def test_versions_are_ordered_as_numbers(pair: list[tuple[int, int, int]]) -> None:
    first, second = (".".join(str(part) for part in parts) for parts in pair)
    assert (version_key(first) < version_key(second)) == (pair[0] < pair[1])


# -- requests ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=6000))
@settings(max_examples=200, deadline=None)
def test_any_request_is_read_or_refused(document: bytes) -> None:
    try:
        request = inbox.parse(document)
    except Unreadable as error:
        assert str(error)
    else:
        assert set(request.order_id) <= set(string.ascii_letters + string.digits + "._-")


def test_requests_are_taken_oldest_first_and_bad_ones_named(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "a")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"order_id": name}))
        os.utime(tmp_path / f"{name}.json", (number, number))
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "huge.json").write_bytes(b" " * 100_000)
    (tmp_path / "link.json").symlink_to("/etc/shadow")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "directory.json").mkdir()
    (tmp_path / "directory.json" / "inside").write_text("x")
    taken, refused = inbox.take(tmp_path)
    assert [request.order_id for request in taken] == ["b", "a"]
    assert len(refused) == 5
    assert list(tmp_path.iterdir()) == [], "what stays would wake the updater for ever"


def test_a_request_that_is_still_being_written_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".order.json.new").write_text("{")
    assert inbox.take(tmp_path) == ([], [])
    assert [path.name for path in tmp_path.iterdir()] == [".order.json.new"]


# -- record, quarantine, status, history ------------------------------------------------------------------------------


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=150, deadline=None)
def test_any_record_is_read_or_set_aside(tmp_path_factory: pytest.TempPathFactory, document: bytes) -> None:
    path = tmp_path_factory.mktemp("record") / "state.json"
    path.write_bytes(document)
    kept, problem = record.load(path)
    assert kept == Record() or problem == ""
    assert path.exists() == (problem == "")


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=100, deadline=None)
def test_any_quarantine_is_read_or_begun_anew(tmp_path_factory: pytest.TempPathFactory, document: bytes) -> None:
    path = tmp_path_factory.mktemp("quarantine") / "quarantine.json"
    path.write_bytes(document)
    quarantine.add(path, "2026.1.1", "it failed", 1.0)
    assert "2026.1.1" in quarantine.load(path).versions


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=100, deadline=None)
def test_any_status_is_read_or_unreadable(tmp_path_factory: pytest.TempPathFactory, document: bytes) -> None:
    path = tmp_path_factory.mktemp("status") / "status.json"
    path.write_bytes(document)
    try:
        assert isinstance(status.read(path), status.Status)
    except Unreadable as error:
        assert str(path) in str(error)


@given(st.lists(st.tuples(st.sampled_from(["committed", "an event of the future"]), st.text(max_size=40)), max_size=8))
@settings(max_examples=60, deadline=None)
def test_what_is_appended_to_the_history_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("history") / "history.jsonl"
    for event, reason in events:
        history.append(path, Entry(1.0, event, reason=reason))
    assert [(entry.event, entry.reason) for entry in history.read(path)[0]] == events


@given(st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_a_torn_last_line_costs_only_itself(tmp_path_factory: pytest.TempPathFactory, torn: int) -> None:
    path = tmp_path_factory.mktemp("history") / "history.jsonl"
    history.append(path, Entry(1.0, "installed", "2026.1.1"))
    whole = path.stat().st_size
    history.append(path, Entry(2.0, "trial_started", "2026.1.1"))
    with path.open("r+b") as file:
        file.truncate(max(whole, path.stat().st_size - torn))
    history.append(path, Entry(3.0, "committed", "2026.1.1"))
    found, damaged = history.read(path)
    assert [entry.event for entry in found if entry.event != "trial_started"] == ["installed", "committed"]
    assert damaged <= 1


def test_the_history_is_bounded_and_turned_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEEP", 2000)
    path = tmp_path / "history.jsonl"
    for number in range(100):
        history.append(path, Entry(float(number), "check_failed", reason="no uplink"))
    found, _ = history.read(path)
    assert found[-1].at == 99.0
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 5000


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("repository = 7", "repository"),
        ("[gate]\nunits = 'one'", "units"),
        ("[gate]\ndeadline = 'soon'", "deadline"),
        ("[window]\nstart = '25:00'\nend = '03:00'", "HH:MM"),
        ("[window]\nstart = '01:00'\nend = '03:00'\ntime_zone = 'Mars/Olympus'", "Mars"),
        ("repository = ", "config.toml"),
        ("\0", "config.toml"),
    ],
)
def test_a_configuration_error_names_file_and_key(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        load(path)
    assert "window" in str(caught.value) or str(path) in str(caught.value)


def test_unknown_keys_warn_and_a_missing_file_is_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("colour = 'blue'\n[gate]\nmood = 'good'\n")
    config, warnings = load(path)
    assert config == Config()
    assert [warning.split(": ")[1] for warning in warnings] == [
        "colour is not known and ignored", "gate.mood is not known and ignored",
    ]  # fmt: skip
    assert load(tmp_path / "none.toml")[0] == Config()


@pytest.mark.parametrize(
    ("clock", "is_open"), [("2026-11-21T01:30", False), ("2026-11-21T04:30", True), ("2026-11-21T06:30", False)]
)
def test_a_window_is_in_the_sites_own_time(clock: str, is_open: bool) -> None:
    import datetime

    moment = datetime.datetime.fromisoformat(clock).replace(tzinfo=datetime.UTC).timestamp()
    assert Window("23:00", "01:00", "America/New_York").open_at(moment) is is_open
