"""docs/update-protocol.md says what the code does: every field, default, state, event and number of it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance_release.repository import LIFETIMES
from appliance_update import chunk_index, inbox, release, status, tuf_client
from appliance_update.choice import bucket
from appliance_update.history import Entry, Event
from appliance_update.inbox import Request
from appliance_update.layout import load as load_layout
from appliance_update.record import State
from appliance_update.release import SignedFile, admit
from appliance_update.status import Status
from tests.appliance_update.simulator import LAYOUT

TEXT = (Path(__file__).parents[2] / "docs" / "update-protocol.md").read_text()
SECTIONS = {int(part.split(".", 1)[0]): part for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]}
DEFAULTS = {"''": '`""`', "()": "`[]`", "None": "none", "False": "false", "0.0": "0"}


def rows(section: int) -> dict[str, list[str]]:
    """The tables of a section: first cell (each name in it) to the other cells."""
    found = {}
    for line in SECTIONS[section].splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            first, *rest = (cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|")))
            found.update(dict.fromkeys(re.findall(r"`([^`]+)`", first), rest))
    return found


@pytest.mark.parametrize(
    ("section", "model"),
    [
        (3, release.WrittenRelease), (3, release.WrittenArtifact), (9, Request), (10, Status), (11, Entry),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)  # fmt: skip
def test_every_field_is_documented(section: int, model: Any) -> None:
    documented = rows(section)
    missing = [field.name for field in dataclasses.fields(model) if field.name not in documented]
    assert missing == []


@pytest.mark.parametrize("model", [release.WrittenRelease, release.WrittenArtifact, Request])
def test_every_default_is_the_documented_one(model: Any) -> None:
    documented = rows(9 if model is Request else 3)
    for field in dataclasses.fields(model):
        _, default, *_ = documented[field.name]
        if field.default is dataclasses.MISSING:
            assert default == "required", field.name
        else:
            shown = DEFAULTS.get(repr(field.default), repr(field.default))
            assert default == shown, field.name


@pytest.mark.parametrize("model", [release.Cohort, release.Downgrade, release.WrittenChunks])
def test_the_fields_of_the_inner_objects_are_documented(model: Any) -> None:
    names = [field.encode_name for field in msgspec.structs.fields(model)] if model is release.Downgrade else [
        field.name for field in dataclasses.fields(model)
    ]  # fmt: skip
    assert all(f"`{name}`" in SECTIONS[3] for name in names)


def test_every_state_and_every_event_is_documented() -> None:
    assert [state.value for state in State if f"`{state.value}`" not in SECTIONS[10]] == []
    assert {event.value for event in Event} - set(rows(11)) == set()


@pytest.mark.parametrize(
    ("section", "number"),
    [
        (1, tuf_client.TARGETS_LIMIT), (2, tuf_client.MOST_ROOTS), (3, release.DESCRIPTION_LIMIT), (9, inbox.LIMIT),
        (10, status.LIMIT), *[(2, days) for days in LIFETIMES.values()],
    ],
)  # fmt: skip
def test_every_limit_is_the_documented_one(section: int, number: int) -> None:
    assert re.search(rf"\b{number}\b", SECTIONS[section])


def test_the_markers_of_the_chunk_index_are_the_documented_ones() -> None:
    for marker in (chunk_index.INDEX_TYPE, chunk_index.TABLE_TYPE, chunk_index.TAIL_MARKER, chunk_index.SHA512_256):
        assert f"0x{marker:016X}" in SECTIONS[6]


def test_the_reader_level_is_the_documented_one() -> None:
    assert f"Level {release.READER} is this document" in SECTIONS[8]


def test_the_documented_cohort_is_the_real_one() -> None:
    device, salt, expected = re.findall(r"id `(\w+)`, salt `([\w.]+)`: (\d+)", SECTIONS[4])[0]
    assert bucket(device, salt) == int(expected)


def test_the_example_is_a_release() -> None:
    custom = json.loads(re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)[0])
    files = {artifact["target"]: SignedFile(1, "0" * 64) for artifact in custom["artifacts"]}
    files |= {a["chunks"]["index"]: SignedFile(1, "0" * 64) for a in custom["artifacts"] if "chunks" in a}
    admitted = admit(custom, files, load_layout(LAYOUT), "t640", "standin")
    assert admitted.downgrade is not None
    assert admitted.cohort == release.Cohort(25, "2026.11.2")
    assert [artifact.chunks is not None for artifact in admitted.artifacts] == [False, True, False]
