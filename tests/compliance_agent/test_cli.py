"""The command line: what it prints, and the exit codes it documents."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from appliance_protocol.clock import ClockReading, ClockState
from appliance_protocol.evidence import ChainHead, EvidenceBundle, EvidenceCause, Release
from appliance_protocol.keys import PrivateKey
from appliance_protocol.verdict import CheckResult
from compliance_agent.cli_evidence import verify_file
from compliance_agent.config import Config
from compliance_agent.enrolling import enrol
from compliance_agent.evidence_writer import sign
from compliance_agent.identity import Invitation
from compliance_agent.verifying import ExportHeader, write_export
from tests.compliance_agent.agent_world import agent_in
from tests.compliance_agent.central_peer import CODE, DEVICE, CentralPeer


def write_config(directory: Path, config: Config) -> Path:
    """The paths of a test's world as the file they would stand in."""
    paths = msgspec.to_builtins(config.paths)
    lines = ["[paths]", *(f'{name} = "{value}"' for name, value in paths.items())]
    (directory / "config.toml").write_text("\n".join(lines) + "\n")
    return directory / "config.toml"


def call(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compliance_agent", "--config", str(config), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, agent_in(tmp_path).config)


@pytest.fixture
async def enrolled(tmp_path: Path, central: CentralPeer) -> Path:
    """A device with three bundles of evidence."""
    agent = agent_in(tmp_path)
    enrol(agent.config.central, agent.identity, Invitation(central.url, CODE, central.ca_file.read_text()), agent.clock)
    await agent._identity()
    await agent._checks()
    assert agent.key is not None
    for _ in range(3):
        await agent.writer.write(EvidenceCause.CHANGE, agent.key)
    agent.ledger.database.close()
    return write_config(tmp_path, agent.config)


def test_help_documents_the_exit_codes(config: Path) -> None:
    said = call(config, "--help").stdout
    assert "Exit codes common to all commands:" in said
    assert "64  the command line is wrong" in said
    assert "2  incomplete" in call(config, "evidence", "verify", "--help").stdout


def test_check_prints_every_verdict_as_json_and_exits_by_them(config: Path) -> None:
    done = call(config, "check", "--json", "update-age", "booted-release")
    results = msgspec.json.decode(done.stdout, type=list[CheckResult])
    assert {result.check_id for result in results} == {"update-age", "booted-release"}
    assert done.returncode == 1  # this machine is no appliance


def test_check_shows_a_table_with_reason_remedy_and_score(config: Path) -> None:
    said = call(config, "check", "booted-release").stdout
    assert "error" in said
    assert "0 of 1 conform (0 %)" in said


def test_an_unknown_check_is_a_usage_error_that_names_the_known_ones(config: Path) -> None:
    done = call(config, "check", "nonsense")
    assert done.returncode == 64
    assert "there is no check nonsense; there are: accounts" in done.stderr


def test_status_without_a_service_exits_3_and_says_where_to_look(config: Path) -> None:
    done = call(config, "status")
    assert done.returncode == 3
    assert "systemctl status compliance-agent" in done.stderr


def test_a_wrong_command_line_exits_64(config: Path) -> None:
    assert call(config, "frobnicate").returncode == 64
    assert call(config, "enrol").returncode == 64


def test_a_wrong_configuration_exits_78_and_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[central]\ncheckin_interval = 'x'\n")
    done = call(tmp_path / "bad.toml", "status")
    assert done.returncode == 78
    assert "bad.toml: central.checkin_interval: Expected `int`, got `str`" in done.stderr


def test_enrol_enrols_says_so_and_does_not_do_it_twice(config: Path, central: CentralPeer) -> None:
    arguments = ("enrol", "--url", central.url, "--code", CODE, "--ca-file", str(central.ca_file))
    done = call(config, *arguments, "--json")
    assert (done.returncode, json.loads(done.stdout)["device_id"]) == (0, DEVICE)
    again = call(config, *arguments)
    assert again.returncode == 3
    assert f"this is device {DEVICE} of Test clinic already" in again.stderr
    assert call(config, *arguments, "--again").returncode == 0


def test_a_refused_enrolment_exits_1_and_an_unreachable_server_3(config: Path, central: CentralPeer) -> None:
    ca = ("--ca-file", str(central.ca_file))
    refused = call(config, "enrol", "--url", central.url, "--code", "WRONG", *ca)
    assert (refused.returncode, "the enrolment code is not valid" in refused.stderr) == (1, True)
    assert call(config, "enrol", "--url", "https://127.0.0.1:9", "--code", CODE, *ca).returncode == 3
    missing = call(config, "enrol", "--url", central.url, "--code", CODE, "--ca-file", "/nowhere.pem")
    assert (missing.returncode, "/nowhere.pem: No such file" in missing.stderr) == (3, True)


def test_without_an_enrolment_there_is_no_evidence(config: Path) -> None:
    done = call(config, "evidence", "list")
    assert (done.returncode, "not enrolled" in done.stderr) == (3, True)


def test_evidence_is_listed_shown_exported_and_verified(enrolled: Path, tmp_path: Path) -> None:
    listed = json.loads(call(enrolled, "evidence", "list", "--json", "--limit", "2").stdout)
    assert [entry["sequence"] for entry in listed] == [3, 2]
    assert "settable" in call(enrolled, "evidence", "show", "2").stdout
    assert call(enrolled, "evidence", "show", "9").returncode == 1
    assert call(enrolled, "evidence", "verify").stdout == "ok: 3 bundles verified, 1 to 3\n"
    assert call(enrolled, "evidence", "export", str(tmp_path / "out.jsonl")).returncode == 0
    exported = call(enrolled, "evidence", "verify", str(tmp_path / "out.jsonl"), "--json")
    assert (exported.returncode, json.loads(exported.stdout)["outcome"]) == (0, "ok")


@pytest.mark.parametrize(
    ("damage", "code", "outcome"),
    [
        (lambda lines: [lines[0], lines[2], lines[3]], 2, "incomplete"),
        (lambda lines: lines[:3], 2, "incomplete"),
        (lambda lines: [*lines[:2], lines[2].replace(b'"payload":"e', b'"payload":"f'), lines[3]], 1, "tampered"),
        (lambda lines: [*lines[:2], b"garbage", lines[3]], 1, "tampered"),
        (lambda lines: lines[:1], 3, "unverifiable"),
        (lambda lines: [b"garbage"], 3, "unverifiable"),
        (lambda lines: [], 3, "unverifiable"),
    ],
)
def test_what_was_done_to_an_export_shows_in_the_exit_code(
    tmp_path: Path, damage: object, code: int, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.jsonl"
    key, head, envelopes = PrivateKey.generate(), ChainHead(), []
    clock = ClockReading(1_790_000_000.0, 1.0, "boot", ClockState.SYNCHRONISED)
    for sequence in (1, 2, 3):
        release = Release("t640", "2026.11.0")
        cause = EvidenceCause.CHANGE
        bundle = EvidenceBundle(DEVICE, sequence, head.digest, cause, clock, release, "1", "p", "PT1H", ())
        sealed = sign(bundle, key)
        head = ChainHead(sequence, sealed.digest)
        envelopes.append(sealed.envelope)
    write_export(file, ExportHeader(DEVICE, key.public.text, 1, 3, 0.0), envelopes)
    file.write_bytes(b"\n".join(damage(file.read_bytes().splitlines())))  # type: ignore[operator]
    assert verify_file(file, key.public.text, as_json=True) == code
    assert json.loads(capsys.readouterr().out)["outcome"] == outcome


def test_a_pinned_key_that_did_not_sign_is_tampering(enrolled: Path) -> None:
    other = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    assert call(enrolled, "evidence", "verify", "--public-key", other).returncode == 1


def test_collect_writes_the_facts(config: Path, tmp_path: Path) -> None:
    assert call(config, "collect", "--output", str(tmp_path / "facts.json")).returncode == 0
    assert json.loads((tmp_path / "facts.json").read_bytes())["format"] == 1
    assert call(config, "collect", "--output", "/proc/nowhere/facts.json").returncode == 3
