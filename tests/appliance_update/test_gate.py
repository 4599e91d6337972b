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

from appliance_update.config import Gate
from appliance_update.gate import cli
from appliance_update.gate.checks import registry
from appliance_update.gate.judge import judge, round_of
from appliance_update.host import LOADER_GUID, Host

CHECKS = registry()


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
    assert list(CHECKS) == ["clock", "databases", "portal", "progress", "state", "units"]


def test_a_portal_that_says_ok_over_tls_passes_with_and_without_its_ca(
    host: Host, portal: Portal, tmp_path: Path
) -> None:
    assert CHECKS["portal"](Gate(portal=portal.url), host) is None
    assert CHECKS["portal"](Gate(portal=portal.url, portal_ca=str(tmp_path / "cert")), host) is None


@pytest.mark.parametrize(("status", "body"), [(500, b"ok"), (200, b"starting"), (302, b"")])
def test_a_portal_that_says_something_else_fails(host: Host, portal: Portal, status: int, body: bytes) -> None:
    portal.status, portal.body = status, body
    assert "portal" in (CHECKS["portal"](Gate(portal=portal.url), host) or "")


def test_a_portal_that_is_not_there_fails_and_no_proxy_is_asked(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert "does not answer" in (CHECKS["portal"](Gate(portal="https://127.0.0.1:9/healthz"), host) or "")
    assert "not a web address" in (CHECKS["portal"](Gate(portal="file:///etc/passwd"), host) or "")


def test_progress_must_be_there_and_fresh(host: Host) -> None:
    gate = Gate(progress_file="/run/compliance-agent/progress", progress_within=60.0)
    assert "no progress yet" in (CHECKS["progress"](gate, host) or "")
    path = host.path(gate.progress_file)
    path.parent.mkdir(parents=True)
    path.write_text("1")
    assert CHECKS["progress"](gate, host) is None
    os.utime(path, (time.time() - 600, time.time() - 600))
    assert "600 s old" in (CHECKS["progress"](gate, host) or "")


def test_state_must_take_writes(host: Host) -> None:
    assert CHECKS["state"](Gate(state_directory="/var/lib"), host) is None
    assert "cannot be written" in (CHECKS["state"](Gate(state_directory="/nowhere"), host) or "")
    assert list(host.path("/var/lib").iterdir()) == []


def test_a_full_state_partition_fails(host: Host) -> None:
    directory = host.path("/var/lib")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "full", directory], check=True)
    try:
        (directory / "filler").write_bytes(bytes(64 * 1024))
        assert "No space left" in (CHECKS["state"](Gate(state_directory="/var/lib"), host) or "")
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def test_databases_must_open_and_be_whole(host: Host) -> None:
    path = host.path("/var/lib/agent.db")
    gate = Gate(databases=("/var/lib/*.db",))
    assert CHECKS["databases"](gate, host) is None, "a service that has not made its database yet"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE evidence (body TEXT)")
        connection.executemany("INSERT INTO evidence VALUES (?)", [("x" * 900,)] * 200)
    connection.close()
    assert CHECKS["databases"](gate, host) is None
    content = bytearray(path.read_bytes())
    content[5000:9000] = os.urandom(4000)
    path.write_bytes(bytes(content))
    assert "agent.db is not usable" in (CHECKS["databases"](gate, host) or "")
    path.write_bytes(b"no database at all" * 100)
    assert "not usable" in (CHECKS["databases"](gate, host) or "")


def test_a_clock_before_the_image_was_built_fails(host: Host) -> None:
    share = host.path("/usr/share/appliance-update")
    share.mkdir(parents=True)
    (share / "build-time").write_text(f"{time.time():.0f}")
    assert CHECKS["clock"](Gate(), host) is None
    (share / "build-time").write_text(f"{time.time() + 30 * 86400:.0f}")
    assert "the image was built at" in (CHECKS["clock"](Gate(), host) or "")


def test_units_must_all_be_active(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(units=("compliance-agent.service", "local-portal.service"))
    active = "Id={}\nActiveState=active\nSubState=running\nNRestarts=0\n"
    fake_systemctl(tmp_path, "\n".join(active.format(unit) for unit in gate.units), monkeypatch)
    assert CHECKS["units"](gate, host) is None
    looping = "Id=local-portal.service\nActiveState=activating\nSubState=auto-restart\nNRestarts=7\n"
    fake_systemctl(tmp_path, "\n".join((active.format(gate.units[0]), looping)), monkeypatch)
    assert CHECKS["units"](gate, host) == "local-portal.service is activating/auto-restart after 7 restarts"
    fake_systemctl(tmp_path, active.format(gate.units[0]), monkeypatch)
    assert CHECKS["units"](gate, host) == "local-portal.service is not known to systemd"


def test_a_check_that_breaks_has_failed(host: Host) -> None:
    def broken(gate: Gate, host: Host) -> str | None:
        raise AttributeError("no attribute mcp_api_key_file")

    failures = round_of(Gate(), host, {"broken": broken})
    assert failures == {"broken": "the check itself broke: AttributeError: no attribute mcp_api_key_file"}


def test_the_gate_waits_for_what_is_still_starting(host: Host) -> None:
    answers = iter(["not yet", "not yet", None])
    clock = iter(range(0, 1000, 10))
    verdict = judge(
        Gate(deadline=60.0), host, {"late": lambda _gate, _host: next(answers)},
        pause=lambda _: None, clock=lambda: float(next(clock)),
    )  # fmt: skip
    assert verdict.passed
    assert verdict.version == "2026.11.2"


def test_the_deadline_is_measured_by_a_clock_that_nobody_sets(host: Host) -> None:
    clock = iter(range(0, 1000, 10))
    verdict = judge(
        Gate(deadline=60.0), host, {"never": lambda _gate, _host: "never"},
        pause=lambda _: None, clock=lambda: float(next(clock)),
    )  # fmt: skip
    assert not verdict.passed
    assert verdict.seconds == 60.0
    assert verdict.reason == "never: never"


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("\\EFI\\Linux\\t640_2026.11.2+2-1.efi", False),
        ("\\EFI\\Linux\\t640_2026.11.2+0-3.efi", False),
        ("\\EFI\\Linux\\t640_2026.11.2+0-4.efi", True),
        ("\\EFI\\Linux\\t640_2026.11.2+0-11.efi", True),
        ("\\EFI\\Linux\\t640_2026.11.2.efi", False),
    ],
)
def test_only_a_boot_that_the_loader_took_for_want_of_a_better_one_is_not_rebooted(
    host: Host, path: str, out: bool
) -> None:
    variable = host.path(f"/sys/firmware/efi/efivars/LoaderBootCountPath-{LOADER_GUID}")
    variable.write_bytes(b"\6\0\0\0" + (path + "\0").encode("utf-16-le"))
    assert host.counting
    assert cli.out_of_tries(host) is out


def test_without_a_counter_the_system_is_never_out_of_tries(host: Host) -> None:
    assert not host.counting
    assert not cli.out_of_tries(host)


def test_the_program_writes_its_verdict_for_the_portal_and_for_the_next_boot(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[gate]\nstate_directory = "{tmp_path}"\nunits = []\n'
        f'[paths]\nstate = "{tmp_path}/state"\nruntime = "{tmp_path}/run"\n'
    )
    done = CliRunner().invoke(cli.main, ["--config", str(config), "--once"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run/gate.json").read_text())["passed"] is True

    config.write_text(config.read_text().replace(f'state_directory = "{tmp_path}"', 'state_directory = "/nowhere"'))
    done = CliRunner().invoke(cli.main, ["--config", str(config), "--once"])
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
