"""What cannot be read is never a pass, and nothing that is read can break a check."""

from __future__ import annotations

import asyncio
import fnmatch
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance_protocol.verdict import Verdict
from compliance_agent.checking import CheckRunner
from compliance_agent.checks.base import Check, Finding, Host, discover
from compliance_agent.config import Config
from compliance_agent.errors import CheckError
from compliance_agent.privileged import FACTS_FILE, read_facts
from tests.compliance_agent.checks import recorded

CHECKS = {check.id: check for check in discover()}
IDS = sorted(CHECKS)
CONFORMING = {check_id: recorded.load(recorded.FIXTURES / check_id / "conforming.toml") for check_id in IDS}
NEVER = (Verdict.PASS, Verdict.FIXED, Verdict.NOT_APPLICABLE)
SWIFT = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

NOT_JUDGED = {
    # The kernel's facts about partitions that are not the booted slot, and names that are only shown.
    "booted-release": ("*/dm/name", "*/slaves/*", "*/nvme0n1/*", "*nvme0n1p[1456]/*", "*p2/size", "*p3/size"),
    "standby-slot": ("*/dm/name", "*/slaves/*", "*/nvme0n1/*", "*nvme0n1p[16]/*", "*/size", "*/partition"),
    "verified-system": ("*/dm/name", "*/slaves/*"),
    "watchdog": ("*/identity",),
    # The release is shown beside the verdict.
    "kernel-settings": ("/proc/net/tcp6",),
}
"""Files of a recording on whose contents the verdict does not stand."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
garbage = st.just(b"") | st.binary(max_size=120).map(lambda tail: b"\xff\x00" + tail)


@dataclass
class Box:
    """The conforming box of one check, to be damaged and mended again."""

    check: Check
    case: recorded.Case
    host: Host

    def finding(self, host: Host | None = None) -> Finding:
        """Run the check. Anything but `CheckError` comes out and fails the test."""
        return recorded.look(self.check, host or self.host)

    def judged(self) -> list[str]:
        """The files on whose contents the verdict stands."""
        spare = NOT_JUDGED.get(self.check.id, ())
        return [path for path in self.files() if not any(fnmatch.fnmatch(path, pattern) for pattern in spare)]

    def files(self) -> list[str]:
        """Every file of the recording, the facts file included."""
        return [*self.case.files, *([FACTS_FILE] if self.case.privileged is not None else [])]


@pytest.fixture(params=IDS)
def conforming(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Box]:
    case = CONFORMING[request.param]
    with recorded.box(case, tmp_path / "root") as host:
        yield Box(CHECKS[request.param], case, host)


def damaged(box: Box, path: str, content: bytes) -> Finding:
    """The finding with one file replaced, which is put back."""
    file = box.host.path(path)
    good = file.read_bytes()
    try:
        file.write_bytes(content)
        return box.finding()
    finally:
        file.write_bytes(good)


@pytest.mark.parametrize("check_id", IDS)
def test_a_box_that_cannot_be_read_gives_unknown_or_error_with_a_reason(check_id: str, tmp_path: Path) -> None:
    host = recorded.host(recorded.Case(), tmp_path / "nothing here")
    (result,) = asyncio.run(CheckRunner([CHECKS[check_id]]).run(host))
    assert result.verdict in (Verdict.UNKNOWN, Verdict.ERROR)
    assert len(result.reason) > 10
    assert "broke down" not in result.reason
    assert result.source


@pytest.mark.parametrize("check_id", [i for i in IDS if CONFORMING[i].files or CONFORMING[i].privileged is not None])
def test_directories_in_place_of_files_give_unknown_or_error(check_id: str, tmp_path: Path) -> None:
    case = CONFORMING[check_id]
    for path in [*case.files, FACTS_FILE]:
        (tmp_path / path.lstrip("/")).mkdir(parents=True)
    finding = recorded.look(CHECKS[check_id], recorded.host(case, tmp_path))
    assert finding.verdict in (Verdict.UNKNOWN, Verdict.ERROR), finding.reason


@SWIFT
@given(data=st.data())
def test_a_file_full_of_garbage_is_never_a_pass(conforming: Box, data: st.DataObject) -> None:
    judged = conforming.judged()
    if not judged:
        return
    path = data.draw(st.sampled_from(judged))
    content = data.draw(garbage)
    if path.endswith(".jsonl") and not content:
        return  # a history without a line is one of no update
    finding = damaged(conforming, path, content)
    assert finding.verdict not in NEVER, f"{path}: {finding.reason}"
    assert finding.reason


@SWIFT
@given(data=st.data())
def test_a_truncated_or_scribbled_file_never_breaks_a_check(conforming: Box, data: st.DataObject) -> None:
    if not conforming.files():
        return
    path = data.draw(st.sampled_from(conforming.files()))
    good = conforming.host.path(path).read_bytes()
    cut = data.draw(st.integers(0, len(good)))
    scribble = data.draw(st.just(b"") | st.binary(max_size=30) | st.text(max_size=30).map(lambda text: text.encode()))
    finding = damaged(conforming, path, good[:cut] + scribble + good[cut + data.draw(st.integers(0, 40)) :])
    conforming.check.result(finding, 0.0)


@SWIFT
@given(data=st.data())
def test_any_answer_of_the_bus_is_survived_and_a_wrong_kind_of_answer_is_no_pass(
    conforming: Box, data: st.DataObject
) -> None:
    if not conforming.case.bus:
        return
    victim = data.draw(st.sampled_from(conforming.case.bus))
    answer = data.draw(json_values)
    others = tuple(one for one in conforming.case.bus if one is not victim)
    bus = recorded.RecordedBus((*others, replace(victim, answer=answer)))
    finding = conforming.finding(replace(conforming.host, bus=bus))
    if type(answer) is not type(victim.answer):
        assert finding.verdict not in NEVER, f"{victim.member}: {answer!r}: {finding.reason}"


@SWIFT
@given(data=st.data())
def test_a_command_that_printed_garbage_is_never_a_pass(conforming: Box, data: st.DataObject) -> None:
    readings = (conforming.case.privileged or {}).get("readings")
    if not readings:
        return
    name = data.draw(st.sampled_from(sorted(readings)))
    output = data.draw(st.text(max_size=200) | json_values.map(json.dumps))
    broken = conforming.case.privileged | {"readings": readings | {name: {"source": name, "output": output}}}
    facts = {"collected": msgspec.to_builtins(recorded.NOW)} | broken
    finding = damaged(conforming, FACTS_FILE, json.dumps(facts).encode())
    assert finding.verdict not in NEVER, finding.reason


@pytest.mark.parametrize("check_id", [i for i in IDS if CONFORMING[i].journal])
@pytest.mark.parametrize("content", [b"", b"LPKSHHRH", b"LPKSHHRH" + b"\xff" * 4000, b"\x00" * 100_000])
def test_a_journal_file_of_garbage_is_never_a_pass(check_id: str, content: bytes, tmp_path: Path) -> None:
    case = CONFORMING[check_id]
    with recorded.box(case, tmp_path) as host:
        host.path(recorded.JOURNAL).write_bytes(content)
        assert recorded.look(CHECKS[check_id], host).verdict not in NEVER


@pytest.mark.parametrize("check_id", [i for i in IDS if CONFORMING[i].journal])
def test_a_journal_file_cut_short_never_breaks_a_check(check_id: str, tmp_path: Path) -> None:
    case = CONFORMING[check_id]
    with recorded.box(case, tmp_path) as host:
        file = host.path(recorded.JOURNAL)
        good = file.read_bytes()
        for size in (200, 4096, 500_000, len(good) - 4096):
            file.write_bytes(good[:size])
            assert recorded.look(CHECKS[check_id], host).reason


@pytest.mark.parametrize("age", [901.0, -1.0], ids=["too old", "of another boot"])
@pytest.mark.parametrize("check_id", [i for i in IDS if CONFORMING[i].privileged is not None])
def test_facts_that_are_not_of_now_are_an_error(check_id: str, age: float, tmp_path: Path) -> None:
    case = CONFORMING[check_id]
    with recorded.box(case, tmp_path) as host:
        later = replace(recorded.NOW, monotonic=recorded.NOW.monotonic + age)
        if age < 0:
            later = replace(recorded.NOW, boot_id="another")
        old = replace(host, read_privileged=lambda: read_facts(later, tmp_path))
        assert recorded.look(CHECKS[check_id], old).verdict is Verdict.ERROR


def test_every_check_survives_this_machine(tmp_path: Path) -> None:
    """Whatever the machine that runs the tests is, each check finds words for it, and in time."""

    class DeadBus:
        def property(self, *_: Any) -> Any:
            raise CheckError("there is no bus")

        call = property

    host = Host(Path("/"), Config(), recorded.StoppedClock(), DeadBus(), lambda: read_facts(recorded.NOW, tmp_path))
    results = asyncio.run(CheckRunner(list(CHECKS.values())).run(host))
    assert len(results) == len(CHECKS)
    assert not [result.reason for result in results if "broke down" in result.reason or "deadline" in result.reason]
