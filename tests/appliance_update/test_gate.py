"""boot-health: local facts decide, unknown is never success, and a loop of bad boots ends."""

from __future__ import annotations

import http.server
import json
import os
import sqlite3
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance_update.config import Config, Gate, Paths
from appliance_update.gate import baseline, cli
from appliance_update.gate.checks import Hopeless, registry
from appliance_update.gate.judge import judge, round_of
from appliance_update.host import LOADER_GUID, Host
from tests.appliance_update.conftest import V1, World

CHECKS = registry()


def gate(**changes: object) -> Config:
    """A configuration with this gate and nothing else."""
    return Config(gate=Gate(**{"slots": False, "rehearsal": "", **changes}))  # type: ignore[arg-type]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text("IMAGE_VERSION=2026.11.2\n")
    (tmp_path / "var/lib").mkdir(parents=True)
    (tmp_path / "sys/firmware/efi/efivars").mkdir(parents=True)
    return Host(tmp_path)


def certificate(directory: Path) -> Path:
    path = directory / "portal.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2",
         "-keyout", path, "-out", directory / "cert"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + (directory / "cert").read_bytes())
    return path


class Portal:
    """An HTTPS server whose health page says what it is told to."""

    def __init__(self, pem: Path) -> None:
        portal = self
        self.status, self.body = 200, b"ok"

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(portal.status)
                self.send_header("Content-Length", str(len(portal.body)))
                self.end_headers()
                self.wfile.write(portal.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server.server_address[1]}/healthz"


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[Portal]:
    made = Portal(certificate(tmp_path))
    yield made
    made.server.shutdown()
    made.server.server_close()


def fake_systemctl(directory: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd does not run everywhere; its answer is a text."""
    program = directory / "bin/systemctl"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\ncat <<'EOT'\n{text}\nEOT\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_every_check_of_the_folder_is_found() -> None:
    assert list(CHECKS) == [
        "clock", "counting", "databases", "polling", "portal", "programs", "progress", "rehearsal", "slots", "state",
        "units", "worked",
    ]  # fmt: skip


def test_a_portal_that_says_ok_over_tls_passes_with_and_without_its_ca(
    host: Host, portal: Portal, tmp_path: Path
) -> None:
    assert CHECKS["portal"](gate(portal=portal.url), host) is None
    assert CHECKS["portal"](gate(portal=portal.url, portal_ca=str(tmp_path / "cert")), host) is None


@pytest.mark.parametrize(("status", "body"), [(500, b"ok"), (200, b"starting"), (302, b"")])
def test_a_portal_that_says_something_else_fails(host: Host, portal: Portal, status: int, body: bytes) -> None:
    portal.status, portal.body = status, body
    assert "portal" in (CHECKS["portal"](gate(portal=portal.url), host) or "")


def test_a_portal_that_is_not_there_fails_and_no_proxy_is_asked(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert "does not answer" in (CHECKS["portal"](gate(portal="https://127.0.0.1:9/healthz"), host) or "")
    assert "not a web address" in (CHECKS["portal"](gate(portal="file:///etc/passwd"), host) or "")


def test_progress_must_be_there_and_fresh(host: Host) -> None:
    config = gate(progress_file="/run/compliance-agent/progress", progress_within=60.0)
    assert "no progress yet" in (CHECKS["progress"](config, host) or "")
    path = host.path(config.gate.progress_file)
    path.parent.mkdir(parents=True)
    path.write_text("1")
    assert CHECKS["progress"](config, host) is None
    os.utime(path, (time.time() - 600, time.time() - 600))
    assert "600 s old" in (CHECKS["progress"](config, host) or "")


def test_state_must_take_writes(host: Host) -> None:
    assert CHECKS["state"](gate(state_directory="/var/lib"), host) is None
    assert "cannot be written" in (CHECKS["state"](gate(state_directory="/nowhere"), host) or "")
    assert list(host.path("/var/lib").iterdir()) == []


def test_a_full_state_partition_fails(host: Host) -> None:
    directory = host.path("/var/lib")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "full", directory], check=True)
    try:
        (directory / "filler").write_bytes(bytes(64 * 1024))
        assert "No space left" in (CHECKS["state"](gate(state_directory="/var/lib"), host) or "")
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def test_databases_must_open_and_be_whole(host: Host) -> None:
    path = host.path("/var/lib/agent.db")
    config = gate(databases=("/var/lib/*.db",))
    assert CHECKS["databases"](config, host) is None, "a service that has not made its database yet"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE evidence (body TEXT)")
        connection.executemany("INSERT INTO evidence VALUES (?)", [("x" * 900,)] * 200)
    connection.close()
    assert CHECKS["databases"](config, host) is None
    content = bytearray(path.read_bytes())
    content[5000:9000] = os.urandom(4000)
    path.write_bytes(bytes(content))
    assert "agent.db is not usable" in (CHECKS["databases"](config, host) or "")
    path.write_bytes(b"no database at all" * 100)
    assert "not usable" in (CHECKS["databases"](config, host) or "")


def test_a_clock_before_the_image_was_built_fails(host: Host) -> None:
    share = host.path("/usr/share/appliance-update")
    share.mkdir(parents=True)
    (share / "build-time").write_text(f"{time.time():.0f}")
    assert CHECKS["clock"](gate(), host) is None
    (share / "build-time").write_text(f"{time.time() + 30 * 86400:.0f}")
    assert "the image was built at" in (CHECKS["clock"](gate(), host) or "")


def test_units_must_all_be_active(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = gate(units=("compliance-agent.service", "local-portal.service"))
    active = "Id={}\nActiveState=active\nSubState=running\nNRestarts=0\n"
    fake_systemctl(tmp_path, "\n".join(active.format(unit) for unit in config.gate.units), monkeypatch)
    assert CHECKS["units"](config, host) is None
    looping = "Id=local-portal.service\nActiveState=activating\nSubState=auto-restart\nNRestarts=3\n"
    fake_systemctl(tmp_path, "\n".join((active.format(config.gate.units[0]), looping)), monkeypatch)
    assert CHECKS["units"](config, host) == "local-portal.service is activating/auto-restart after 3 restarts"
    fake_systemctl(tmp_path, active.format(config.gate.units[0]), monkeypatch)
    assert CHECKS["units"](config, host) == "local-portal.service is not known to systemd"


def test_a_check_that_breaks_has_failed(host: Host) -> None:
    def broken(config: Config, host: Host) -> str | None:
        raise AttributeError("no attribute mcp_api_key_file")

    failures = round_of(gate(), host, {"broken": broken})
    assert failures == {"broken": "the check itself broke: AttributeError: no attribute mcp_api_key_file"}


def test_the_gate_waits_for_what_is_still_starting(host: Host) -> None:
    answers = iter(["not yet", "not yet", None])
    clock = iter(range(0, 1000, 10))
    verdict = judge(
        gate(deadline=60.0), host, {"late": lambda _gate, _host: next(answers)},
        pause=lambda _: None, clock=lambda: float(next(clock)),
    )  # fmt: skip
    assert verdict.passed
    assert verdict.version == "2026.11.2"


def test_the_deadline_is_measured_by_a_clock_that_nobody_sets(host: Host) -> None:
    clock = iter(range(0, 1000, 10))
    verdict = judge(
        gate(deadline=60.0), host, {"never": lambda _gate, _host: "never"},
        pause=lambda _: None, clock=lambda: float(next(clock)),
    )  # fmt: skip
    assert not verdict.passed
    assert verdict.seconds == 60.0
    assert verdict.reason == "never: never"


def test_the_program_writes_its_verdict_for_the_portal_and_for_the_next_boot(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[gate]\nslots = false\nrehearsal = ""\nstate_directory = "{tmp_path}"\nunits = []\ndeadline = 0.0\n'
        f'[paths]\nstate = "{tmp_path}/state"\nruntime = "{tmp_path}/run"\n'
    )
    done = CliRunner().invoke(cli.main, ["--config", str(config)])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run/gate.json").read_text())["passed"] is True

    config.write_text(config.read_text().replace(f'state_directory = "{tmp_path}"', 'state_directory = "/nowhere"'))
    looked = CliRunner().invoke(cli.main, ["--config", str(config), "--once"])
    assert looked.exit_code == 1
    assert json.loads((tmp_path / "run/gate.json").read_text())["passed"] is True  # a person's look changes nothing
    done = CliRunner().invoke(cli.main, ["--config", str(config)])
    assert done.exit_code == 1
    assert "NOT good" in done.output
    last = json.loads((tmp_path / "state/last-gate.json").read_text())
    assert last["passed"] is False
    assert "cannot be written" in last["reason"]


def test_a_broken_configuration_is_not_a_good_system(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[gate]\ndeadline = 'soon'\n")
    assert CliRunner().invoke(cli.main, ["--config", str(config)]).exit_code == 2


def test_the_verdict_survives_a_full_disk(tmp_path: Path) -> None:
    from appliance_update.config import Config, Paths
    from appliance_update.gate.judge import Verdict

    config = Config(paths=replace(Paths(), state="/proc/nowhere", runtime="/proc/nowhere"))
    cli.publish(config, Verdict(True, "2026.11.2", "", 0.0, 0.0))


# -- early judgement --------------------------------------------------------------------------------------------------


def facts(**changes: str) -> str:
    """What systemd says of the agent's unit."""
    known = {"Id": "compliance-agent.service", "LoadState": "loaded", "ActiveState": "active", "SubState": "running",
             "NRestarts": "0", "Result": "success"}  # fmt: skip
    return "\n".join(f"{key}={value}" for key, value in (known | changes).items())


@pytest.mark.parametrize(
    ("changes", "hopeless"),
    [
        ({"ActiveState": "activating", "SubState": "start"}, False),
        ({"ActiveState": "activating", "SubState": "auto-restart", "NRestarts": "3"}, False),
        ({"ActiveState": "inactive", "SubState": "dead"}, False),
        ({"NRestarts": "4"}, True),
        ({"ActiveState": "activating", "SubState": "auto-restart", "NRestarts": "9"}, True),
        ({"ActiveState": "failed", "SubState": "failed", "Result": "start-limit-hit"}, True),
        ({"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}, True),
        ({"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead"}, True),
    ],
)
def test_a_unit_that_is_starting_is_waited_for_and_one_that_only_fails_is_not(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], hopeless: bool
) -> None:
    fake_systemctl(tmp_path, facts(**changes), monkeypatch)
    sentence = CHECKS["units"](gate(units=("compliance-agent.service",)), host)
    assert sentence
    assert isinstance(sentence, Hopeless) is hopeless


def test_a_few_restarts_are_forgiven_once_the_unit_stays_up(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_systemctl(tmp_path, facts(NRestarts="3"), monkeypatch)
    assert CHECKS["units"](gate(units=("compliance-agent.service",)), host) is None


def test_the_worst_of_several_units_is_the_verdict(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = facts(Id="local-portal.service", ActiveState="activating", SubState="start")
    fake_systemctl(tmp_path, f"{slow}\n\n{facts(NRestarts='7')}", monkeypatch)
    sentence = CHECKS["units"](gate(units=("local-portal.service", "compliance-agent.service")), host)
    assert isinstance(sentence, Hopeless)
    assert "compliance-agent.service fails again and again" in sentence


def test_what_cannot_mend_itself_is_condemned_at_once_and_not_at_the_deadline(host: Host) -> None:
    rounds = []

    def hopeless(config: Config, host: Host) -> str:
        rounds.append(1)
        return Hopeless("the program is missing")

    verdict = judge(gate(deadline=240.0), host, {"a": lambda *_: None, "b": hopeless}, clock=lambda: 0.0)
    assert (verdict.passed, verdict.early, len(rounds)) == (False, True, 1)
    assert verdict.reason == "b: the program is missing"


def test_a_missing_program_of_the_updater_cannot_mend_itself(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("systemctl", "journalctl", "zstd"):
        (programs / name).touch(0o755)
    sysupdate = host.path(Paths().sysupdate)
    sysupdate.parent.mkdir(parents=True)
    sysupdate.touch(0o755)
    monkeypatch.setenv("PATH", str(programs))
    assert CHECKS["programs"](gate(slots=True), host) is None
    (programs / "zstd").unlink()
    assert isinstance(CHECKS["programs"](gate(slots=True), host), Hopeless)
    assert CHECKS["programs"](gate(slots=False), host) is None, "generations are not written by these"
    (programs / "zstd").touch(0o755)
    sysupdate.unlink()
    assert "systemd-sysupdate" in (CHECKS["programs"](gate(slots=True), host) or "")


# -- slots and counting, on a simulated device ------------------------------------------------------------------------


def on_device(world: World) -> Config:
    return replace(world.config, gate=Gate(rehearsal=""))


def test_two_slots_must_be_there_and_a_layout_that_cannot_be_read_is_hopeless(world: World) -> None:
    config, host = on_device(world), world.device.host
    assert CHECKS["slots"](config, host) is None
    without = replace(config, paths=replace(config.paths, layout="/nowhere"))
    assert isinstance(CHECKS["slots"](without, host), Hopeless)
    (world.device.root / "proc/self/mountinfo").write_text("")
    waiting = CHECKS["slots"](config, host)
    assert "is not mounted" in (waiting or "")
    assert not isinstance(waiting, Hopeless), "the ESP's automount may still come"


def test_a_first_boot_that_the_loader_did_not_count_is_condemned(world: World) -> None:
    config, host = on_device(world), world.device.host
    assert CHECKS["counting"](config, host) is None, "a blessed system is not counted any more"
    entry = world.device.uki_directory / f"t640_{V1}.efi"
    counted = entry.rename(entry.with_name(f"t640_{V1}+3-0.efi"))
    assert isinstance(CHECKS["counting"](config, host), Hopeless)
    variable = host.path(f"/sys/firmware/efi/efivars/LoaderBootCountPath-{LOADER_GUID}")
    variable.write_bytes(b"\6\0\0\0" + f"\\EFI\\Linux\\{counted.name}\0".encode("utf-16-le"))
    assert CHECKS["counting"](config, host) is None


# -- what worked before the update ------------------------------------------------------------------------------------


def kept(tmp_path: Path, **changes: object) -> Config:
    """A configuration whose state holds the baseline of an earlier version."""
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    (state / "baseline.json").write_text(json.dumps({"version": "2026.11.1", "at": time.time(), **changes}))
    config = gate()
    return replace(config, paths=replace(config.paths, state=str(state)))


def test_a_service_beyond_the_required_ones_that_ran_before_and_failed_since_is_condemned(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = kept(tmp_path, units=["nftables.service"])
    fake_systemctl(tmp_path, facts(Id="nftables.service", ActiveState="failed", Result="exit-code"), monkeypatch)
    sentence = CHECKS["worked"](config, host)
    assert isinstance(sentence, Hopeless)
    assert "it ran under 2026.11.1" in sentence


@pytest.mark.parametrize("changes", [{"LoadState": "not-found"}, {"ActiveState": "inactive"}, {}])
def test_a_service_that_a_release_dropped_or_starts_on_demand_condemns_nobody(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    fake_systemctl(tmp_path, facts(Id="old.service", **changes), monkeypatch)
    assert CHECKS["worked"](kept(tmp_path, units=["old.service"]), host) is None


def test_a_baseline_of_this_very_version_or_none_at_all_compares_nothing(host: Host, tmp_path: Path) -> None:
    assert baseline.before_update(kept(tmp_path, version="2026.11.2"), host) is None
    assert baseline.before_update(kept(tmp_path, version=""), host) is None
    config = kept(tmp_path)
    (tmp_path / "state/baseline.json").write_text("{torn")
    assert baseline.before_update(config, host) is None
    assert CHECKS["worked"](config, host) is None


def test_a_system_that_no_longer_looks_for_updates_is_condemned(host: Host, tmp_path: Path) -> None:
    before = kept(tmp_path, repository="https://updates.example")
    assert isinstance(CHECKS["polling"](before, host), Hopeless)
    assert CHECKS["polling"](replace(before, repository="https://elsewhere.example"), host) is None
    assert CHECKS["polling"](kept(tmp_path), host) is None


def test_the_baseline_tells_what_works_here_and_now(
    host: Host, tmp_path: Path, portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_systemctl(
        tmp_path, "sshd.service loaded active running\ngetty@tty1.service loaded active running", monkeypatch
    )
    host.path("/run/systemd/system").mkdir(parents=True)
    net = host.path("/proc/net")
    net.mkdir(parents=True)
    (net / "tcp").write_text("  sl local rem st\n 0: 00000000:01BB 00000000:0000 0A\n 1: 0100007F:C350 0:0 0A\n")
    (net / "udp6").write_text("  sl local rem st\n 0: 00000000:14E9 00000000:0000 07\n")
    config = replace(gate(portal=portal.url), repository=portal.url.removesuffix("/healthz"))
    config = replace(config, paths=replace(config.paths, state=str(tmp_path / "state")))
    seen = baseline.record(host, config)
    assert seen.units == ("sshd.service",)
    assert (seen.portal, seen.uplink, seen.names) == (True, True, True)
    assert seen.listening == ("tcp/443", "udp/5353")
    assert seen.checkin_age is None
    assert json.loads((tmp_path / "state/baseline.json").read_text())["version"] == "2026.11.2"


def test_a_baseline_that_cannot_be_taken_or_kept_holds_up_no_update(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    config = replace(gate(), paths=replace(Paths(), state="/proc/nowhere"))
    assert baseline.record(host, config).units == ()
    assert baseline.record(host, replace(config, repository="http://updates.example:not-a-port")).version == "2026.11.2"


DOWN = "http://127.0.0.1:9"
"""Nobody listens on the discard port."""


def test_an_uplink_that_went_down_with_the_update_is_advice_and_never_a_failure(host: Host, tmp_path: Path) -> None:
    config = replace(kept(tmp_path, uplink=True, repository=DOWN), repository=DOWN)
    assert "cannot now" in cli.advice(config, host)["uplink"]
    checks = {name: CHECKS[name] for name in ("polling", "worked")}
    assert judge(config, host, checks, pause=lambda _: None).passed


def test_an_uplink_that_was_down_before_and_after_is_not_even_remarked(host: Host, tmp_path: Path) -> None:
    config = replace(kept(tmp_path, uplink=False, repository=DOWN), repository=DOWN)
    assert cli.advice(config, host) == {}


def test_ports_services_and_check_ins_that_are_gone_are_advice(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_systemctl(tmp_path, "", monkeypatch)
    config = kept(tmp_path, listening=["tcp/80"], units=["old.service"], checkin_age=30.0, device_class="t630")
    said = cli.advice(config, host)
    assert sorted(said) == ["checkin", "device_class", "listening", "units"]
    marker = host.path(config.watch.checkin_file)
    marker.parent.mkdir(parents=True)
    marker.touch()
    assert "checkin" not in cli.advice(config, host)


# -- the rehearsal as a check -----------------------------------------------------------------------------------------


UNIT = "appliance-update-rehearse.service"


def rehearsing(tmp_path: Path) -> Config:
    config = gate(rehearsal=UNIT)
    return replace(config, paths=replace(config.paths, runtime=str(tmp_path / "run")))


def report(host: Host, config: Config, **changes: object) -> None:
    values = {"passed": True, "version": host.image_version, "boot_id": host.boot_id(), "at": 1.0, "seconds": 2.0}
    Path(config.paths.runtime).mkdir(exist_ok=True)
    (Path(config.paths.runtime) / "rehearsal.json").write_text(json.dumps(values | changes))


def test_the_rehearsal_is_started_waited_for_and_its_report_believed(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = rehearsing(tmp_path)
    fake_systemctl(tmp_path, facts(Id=UNIT, ActiveState="inactive", SubState="dead"), monkeypatch)
    assert CHECKS["rehearsal"](config, host) == "The rehearsal has begun"
    fake_systemctl(tmp_path, facts(Id=UNIT, ActiveState="activating", SubState="start"), monkeypatch)
    assert CHECKS["rehearsal"](config, host) == "The rehearsal is under way"
    report(host, config)
    assert CHECKS["rehearsal"](config, host) is None


def test_the_rehearsal_waits_for_slots_that_are_not_there_yet(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(world.config, gate=Gate(rehearsal=UNIT))
    fake_systemctl(tmp_path, facts(Id=UNIT, ActiveState="inactive", SubState="dead"), monkeypatch)
    mounts = world.device.root / "proc/self/mountinfo"
    mounted = mounts.read_text()
    mounts.write_text("")
    assert CHECKS["rehearsal"](config, world.device.host) == "The rehearsal waits for the slots"
    mounts.write_text(mounted)
    assert CHECKS["rehearsal"](config, world.device.host) == "The rehearsal has begun"


def test_a_failed_rehearsal_condemns_at_once_with_its_reason(host: Host, tmp_path: Path) -> None:
    config = rehearsing(tmp_path)
    report(host, config, passed=False, reason="agent: AttributeError: mcp_api_key_file")
    sentence = CHECKS["rehearsal"](config, host)
    assert isinstance(sentence, Hopeless)
    assert "mcp_api_key_file" in sentence


@pytest.mark.parametrize("changes", [{"ActiveState": "failed", "Result": "exit-code"}, {"LoadState": "not-found"}])
def test_a_rehearsal_that_cannot_even_report_condemns(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    fake_systemctl(tmp_path, facts(Id=UNIT, **changes), monkeypatch)
    assert isinstance(CHECKS["rehearsal"](rehearsing(tmp_path), host), Hopeless)


def test_the_report_of_the_version_before_is_not_believed(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = rehearsing(tmp_path)
    report(host, config, version="2026.11.1")
    fake_systemctl(tmp_path, facts(Id=UNIT, ActiveState="activating"), monkeypatch)
    assert CHECKS["rehearsal"](config, host) == "The rehearsal is under way"


# -- words ------------------------------------------------------------------------------------------------------------


def test_a_gate_without_its_configuration_judges_nothing_good(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.main, ["--config", str(tmp_path / "nowhere.toml"), "--once"])
    assert done.exit_code == 1
    assert "this system would never look for updates" in done.output


def test_the_reason_is_in_the_history_once_however_often_it_boots(tmp_path: Path) -> None:
    from appliance_update import history
    from appliance_update.gate.judge import Verdict

    config = replace(gate(), paths=replace(Paths(), state=str(tmp_path), runtime=str(tmp_path)))
    verdict = Verdict(False, "2026.11.2", "", 0.0, 0.0, {"units": "local-portal.service has failed"}, counted=True)
    for _ in range(3):
        cli.tell(config, verdict)
    entries, _ = history.read(tmp_path / "history.jsonl")
    assert [(entry.event, entry.version, entry.reason) for entry in entries] == [
        ("gate_failed", "2026.11.2", "units: local-portal.service has failed")
    ]
