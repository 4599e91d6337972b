"""The service itself: TLS, systemd's protocols, certificates renewed while it runs, and visitors who hold on."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from local_portal import connections
from local_portal.certificates import Certificates
from local_portal.config import Config, ConfigError, load
from tests.local_portal.conftest import NAME, PASSWORD, Neighbours, Running, start_portal, stop_portal

FOLDER = Path(__file__).parents[2] / "agent" / "local-portal"


def until(condition: Callable[[], object], what: str, seconds: float = 15) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"{what} did not happen within {seconds} s"
        time.sleep(0.05)


def portal_command(running: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "local_portal", "--config", str(running.directory / "config.toml"), *arguments],
        capture_output=True, text=True, check=False, timeout=60)


def test_the_console_tells_address_fingerprint_and_claim_code(running: Running) -> None:
    shown = (running.directory / "run" / "console.issue").read_text()
    assert shown == running.console
    assert "https://appliance.local:" in shown and running.claim_code in shown
    first, second = Certificates(running.directory / "state").fingerprint()[:47], "claim code"
    assert first in shown and second in shown
    assert (running.directory / "run" / "console.issue").stat().st_mode & 0o077 == 0


def test_only_todays_tls_is_spoken(running: Running) -> None:
    host, port = running.url.removeprefix("https://").split(":")
    context = ssl.create_default_context(cafile=str(running.ca_file))
    with socket.create_connection((host, int(port)), 5) as raw, context.wrap_socket(raw, server_hostname=host) as tls:
        assert tls.version() == "TLSv1.3"
    for options, status in (["-tls1_2"], 0), (["-tls1_1"], 1), (["-tls1_2", "-cipher", "AES256-SHA:@SECLEVEL=0"], 1):
        done = subprocess.run(["openssl", "s_client", "-connect", f"{host}:{port}", *options],
                              input="", capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == status, options


def test_a_forwarded_address_is_not_believed(running: Running) -> None:
    with running.client() as client:
        page = client.get("/claim").text
        token = page.split('name="token" value="')[1][:64]
        client.post("/claim", data={"token": token, "code": "0", "name": "xx"},
                    headers={"X-Forwarded-For": "198.51.100.77", "Forwarded": "for=198.51.100.77"})
    store = running.directory / "state" / "portal.db"
    assert b"198.51.100.77" not in store.read_bytes() + store.with_name("portal.db-wal").read_bytes()


def test_plain_http_and_garbage_on_the_tls_port_harm_nobody(running: Running) -> None:
    host, port = running.url.removeprefix("https://").split(":")
    for rubbish in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\x00" * 500, os.urandom(300)):
        with socket.create_connection((host, int(port)), 5) as raw:
            raw.sendall(rubbish)
            raw.settimeout(10)
            try:
                while raw.recv(4096):
                    pass
            except ConnectionError:
                pass
    with running.client() as client:
        assert client.get("/healthz").text == "ok"


def test_endless_headers_are_refused(running: Running) -> None:
    with running.client() as client:
        assert client.get("/healthz", headers={"X-Long": "x" * 60_000}).status_code in (400, 431)
        assert client.get("/healthz", headers={f"X-{number}": "x" * 100 for number in range(200)}).status_code == 431


def test_one_address_that_holds_many_connections_keeps_nobody_else_out(running: Running) -> None:
    host, port = running.url.removeprefix("https://").split(":")
    context = ssl.create_default_context(cafile=str(running.ca_file))
    held = []
    try:
        for _ in range(connections.PER_ADDRESS + 4):
            raw = socket.create_connection((host, int(port)), 5)
            held.append(raw)
            try:
                held.append(context.wrap_socket(raw, server_hostname=host))
            except OSError:
                break
        other = socket.create_connection(("127.0.0.1", int(port)), 5, source_address=("127.0.0.9", 0))
        with context.wrap_socket(other, server_hostname=host) as tls:
            tls.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert tls.recv(4096).startswith(b"HTTP/1.1 200")
    finally:
        for item in held:
            item.close()


def test_the_commands_read_the_running_portals_state(running: Running) -> None:
    assert portal_command(running, "claim-code").stdout.strip() == running.claim_code
    assert json.loads(portal_command(running, "claim-code", "--json").stdout) == {"claim_code": running.claim_code}
    shown = json.loads(portal_command(running, "ca", "--json").stdout)
    assert shown["sha256"] == Certificates(running.directory / "state").fingerprint()
    assert portal_command(running, "ca", "--pem").stdout == running.ca_file.read_text()
    address = running.url.removeprefix("https://")
    status = portal_command(running, "status", "--json", "--address", address)
    facts = json.loads(status.stdout)
    assert (status.returncode, facts["answers"], facts["claimed"]) == (0, "ok", False)


def test_a_portal_that_does_not_answer_has_status_1(running: Running) -> None:
    down = portal_command(running, "status", "--address", "127.0.0.1:1")
    assert down.returncode == 1 and "no: " in down.stdout


def test_commands_before_the_first_start_say_so(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'state_directory = "{tmp_path}"\n')
    for command in ("claim-code", "status", "ca", "reset-claim"):
        done = subprocess.run(
            [sys.executable, "-m", "local_portal", "--config", str(tmp_path / "config.toml"), command],
            capture_output=True, text=True, check=False)
        assert done.returncode == 4 and "local-portal.service" in done.stderr, command


def test_claiming_clears_the_console_and_a_reset_brings_a_new_code(neighbours: Neighbours) -> None:
    running = start_portal(neighbours, environment={"WATCHDOG_USEC": "600000"})  # keeps house every 0.2 s
    issue = running.directory / "run" / "console.issue"
    try:
        with running.client() as client:
            token = client.get("/claim").text.split('name="token" value="')[1][:64]
            done = client.post("/claim", data={"token": token, "code": running.claim_code, "name": NAME,
                                               "password": PASSWORD, "again": PASSWORD})
            assert done.status_code == 303
            assert "You are all right" in client.get("/").text
            until(lambda: "claim code" not in issue.read_text(), "the code's disappearance from the console")
            assert portal_command(running, "claim-code").returncode == 3
            reset = portal_command(running, "reset-claim", "--yes", "--json")
            assert client.get("/").headers["location"] == "/claim"
            until(lambda: json.loads(reset.stdout)["claim_code"] in issue.read_text(), "the new code on the console")
    finally:
        stop_portal(running)


def test_a_new_certificate_is_served_without_a_restart(neighbours: Neighbours) -> None:
    running = start_portal(neighbours, environment={"WATCHDOG_USEC": "600000"})
    files = Certificates(running.directory / "state")
    host, port = running.url.removeprefix("https://").split(":")

    def served() -> str:
        return ssl.get_server_certificate((host, int(port)))

    try:
        before = served()
        files.description.unlink()
        until(lambda: served() != before, "a new leaf")
        with running.client() as client:
            assert client.get("/healthz").text == "ok"
    finally:
        stop_portal(running)


def test_systemd_hears_ready_watchdog_and_stopping(neighbours: Neighbours, tmp_path: Path) -> None:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.bind(str(tmp_path / "notify"))
    channel.settimeout(15)
    running = start_portal(
        neighbours, environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "900000"})
    assert channel.recv(200) == b"READY=1\nSTATUS=Serving"
    assert [channel.recv(200) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    stop_portal(running)
    heard = channel.recv(200)
    while heard == b"WATCHDOG=1":
        heard = channel.recv(200)
    assert heard == b"STOPPING=1"
    assert running.process.returncode == 0


def test_sockets_handed_over_by_systemd_are_served_and_port_80_only_redirects(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in neighbours.settings().items()))
    secure, plain = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    script = (
        "import fcntl, os, sys\n"
        "first, second = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]\n"
        "os.dup2(first, 3); os.dup2(second, 4)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES='https:http')\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'local_portal', '--config', sys.argv[3], 'run'])\n")
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(secure.fileno()), str(plain.fileno()), str(config)],
        pass_fds=(secure.fileno(), plain.fileno()), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: (tmp_path / "run" / "console.issue").exists(), "the start")
        context = ssl.create_default_context(cafile=str(tmp_path / "state" / "ca.crt"))
        assert httpx.get(f"https://127.0.0.1:{secure.getsockname()[1]}/healthz", verify=context).text == "ok"
        url = f"http://127.0.0.1:{plain.getsockname()[1]}"
        answer = httpx.get(f"{url}/anything?x=1")
        assert (answer.status_code, answer.headers["location"]) == (308, "https://127.0.0.1/")
        assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 421
        assert "https://appliance.local/\n" in (tmp_path / "run" / "console.issue").read_text()
    finally:
        process.terminate()
        process.wait(15)
        secure.close()
        plain.close()


def test_a_damaged_ca_stops_the_start_with_a_sentence(neighbours: Neighbours) -> None:
    running = start_portal(neighbours)
    stop_portal(running)
    (running.directory / "state" / "ca.key").write_text("damaged")
    (running.directory / "state" / "server.json").unlink()
    done = portal_command(running, "run")
    assert done.returncode == 1 and "the CA is damaged" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("text", "reason"), [
    ("idle_minutes = 'x'", "idle_minutes"), ("idle_minutes = 0", "1 to 1440"), ("names = ['a b']", "not a DNS name"),
    ("listen = 'everywhere'", "not appear"), ("backend_seconds = -1", "0.1 to 30"), ("[", "cannot be read"),
    ("names = 'one'", "names"), ("\x00", "cannot be read")])
def test_a_configuration_error_names_file_key_and_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.toml") as caught:
        load(path)
    assert reason in str(caught.value)
    done = subprocess.run([sys.executable, "-m", "local_portal", "--config", str(path), "status"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 78 and "Traceback" not in done.stderr


def test_an_unknown_key_is_a_warning_and_no_file_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("invented = 1\n")
    config, warnings = load(tmp_path / "config.toml")
    assert config == Config() and "unknown key 'invented'" in warnings[0]
    assert load(tmp_path / "nothing") == (Config(), ())


def test_the_shipped_configuration_is_the_defaults() -> None:
    assert load(FOLDER / "etc" / "config.toml") == (Config(), ())
