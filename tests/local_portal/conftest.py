"""Real neighbours, a real portal over TLS, and the same application in-process with clocks that tests can move."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from local_portal import passwords
from local_portal.app import create_app
from local_portal.config import Config
from local_portal.portal import Clock, Portal, build
from local_portal.store import Account
from local_portal.web import SESSION_COOKIE
from tests.local_portal.peers import Agent, Scanner, Updater

PASSWORD = "meadow lantern orbit 7"
NAME = "dr.okafor"
ORIGIN = "https://appliance.local"


@dataclass
class Neighbours:
    """The other services of the appliance."""

    directory: Path
    agent: Agent
    scanner: Scanner
    updater: Updater

    def settings(self, **other: Any) -> dict[str, Any]:
        """A portal configuration that reads them; its own directories are made beside."""
        for name in ("state", "run"):
            (self.directory / name).mkdir(exist_ok=True)
        (self.directory / "os-release").write_text(
            'IMAGE_ID=t640\nIMAGE_VERSION=2026.11.2\nPRETTY_NAME="NixOS 26.05 (Yarara)"\n')
        return {
            "state_directory": str(self.directory / "state"), "runtime_directory": str(self.directory / "run"),
            "agent_socket": str(self.agent.path), "scanner_socket": str(self.scanner.path),
            "updater_status": str(self.updater.status_file), "updater_history": str(self.updater.history_file),
            "os_release": str(self.directory / "os-release"), "listen": "127.0.0.1:0", "backend_seconds": 0.6, **other,
        }


@pytest.fixture(scope="session")
def _street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbours]:
    """The services themselves; starting them anew for every test would only take time."""
    directory = tmp_path_factory.mktemp("neighbours")
    made = Neighbours(directory, Agent(directory / "agent.sock"), Scanner(directory / "scanner.sock"),
                      Updater(directory))
    made.agent.start()
    made.scanner.start()
    yield made
    made.agent.stop()
    made.scanner.stop()


def _as_on_the_first_day(street: Neighbours, directory: Path) -> Neighbours:
    street.agent.recover()
    street.scanner.recover()
    street.updater.recover()
    return Neighbours(directory, street.agent, street.scanner, street.updater)


@pytest.fixture
def neighbours(_street: Neighbours, tmp_path: Path) -> Neighbours:
    """Agent and scanner on unix sockets, the updater's files, all of this moment and well."""
    return _as_on_the_first_day(_street, tmp_path)


@pytest.fixture(scope="module")
def shared_neighbours(_street: Neighbours, tmp_path_factory: pytest.TempPathFactory) -> Neighbours:
    """The same, for a portal that serves a whole module."""
    return _as_on_the_first_day(_street, tmp_path_factory.mktemp("portal"))


@dataclass
class Running:
    """A portal process and what its console said."""

    url: str
    directory: Path
    claim_code: str
    process: subprocess.Popen[str]
    ca_file: Path
    console: str

    def client(self, **other: Any) -> httpx.Client:
        """A client that trusts only this portal's CA and keeps cookies."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        return httpx.Client(base_url=self.url, verify=context, headers={"Origin": self.url}, timeout=20, **other)


def start_portal(neighbours: Neighbours, *, environment: dict[str, str] | None = None, **settings: Any) -> Running:
    """Start `local-portal run` and read its address and claim code from its console output."""
    config = neighbours.directory / "config.toml"
    values = neighbours.settings(**settings)
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    process = subprocess.Popen(
        [sys.executable, "-m", "local_portal", "--config", str(config), "run"], text=True,
        stdout=(neighbours.directory / "stdout").open("w"), stderr=(neighbours.directory / "stderr").open("w"),
        env={**os.environ, **(environment or {})})
    said = _console(process, neighbours.directory)
    port = re.search(r"appliance\.local:(\d+)", said)
    code = re.search(r"claim code (\S+)", said)
    assert port, f"the portal did not say where it listens: {said!r}"
    running = Running(f"https://127.0.0.1:{port[1]}", neighbours.directory, code[1] if code else "", process,
                      neighbours.directory / "state" / "ca.crt", said)
    _wait(running)
    return running


def _console(process: subprocess.Popen[str], directory: Path) -> str:
    """What stands on the screen, once it does."""
    until = time.monotonic() + 15
    while not (text := (directory / "stdout").read_text()):
        assert process.poll() is None and time.monotonic() < until, (directory / "stderr").read_text()
        time.sleep(0.05)
    return text


def _wait(running: Running) -> None:
    until = time.monotonic() + 15
    while True:
        try:
            with running.client() as client:
                assert client.get("/healthz").text == "ok"
                return
        except httpx.TransportError:
            assert time.monotonic() < until, (running.directory / "stderr").read_text()
            time.sleep(0.05)


def stop_portal(running: Running) -> None:
    """SIGTERM, and it must obey."""
    running.process.terminate()
    running.process.wait(15)


@pytest.fixture(scope="module")
def running(shared_neighbours: Neighbours) -> Iterator[Running]:
    """One portal process for a module, not yet claimed."""
    made = start_portal(shared_neighbours)
    yield made
    stop_portal(made)


@dataclass
class Hands:
    """Clocks that stand still until a test moves them."""

    wall: float = field(default_factory=time.time)
    boot: float = 1000.0

    def forward(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.wall += seconds
        self.boot += seconds


@dataclass
class Desk:
    """The application in-process: its parts, its clocks and a browser-like client."""

    portal: Portal
    hands: Hands
    client: httpx.AsyncClient

    async def token(self, path: str) -> str:
        """The form token on a page."""
        found = re.search(r'name="token" value="([0-9a-f]{64})"', (await self.client.get(path)).text)
        assert found, f"{path} has no form"
        return found[1]

    async def post(self, path: str, page: str, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        """Fill in the form of a page and send it."""
        data = {"token": await self.token(page), **fields}
        return await self.client.post(path, data=data, headers=headers)

    async def login(self, password: str = PASSWORD, name: str = NAME, **headers: str) -> httpx.Response:
        """Try to log in."""
        return await self.post("/login", "/login", headers, name=name, password=password)

    def browser(self, address: str = "10.77.0.30") -> httpx.AsyncClient:
        """Another visitor, from another address."""
        return _client(create_app(self.portal), address)


def _client(app: Any, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 40000))
    return httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers={"Origin": ORIGIN})


@pytest.fixture
def unclaimed(neighbours: Neighbours) -> Iterator[Desk]:
    """The application before anybody has claimed it."""
    hands = Hands()
    config = Config(**neighbours.settings())
    portal = build(config, Clock(lambda: hands.wall, lambda: hands.boot))
    yield Desk(portal, hands, _client(create_app(portal), "10.77.0.30"))
    portal.close()


@pytest.fixture(scope="session")
def password_hash() -> str:
    """Hashing takes a while on purpose; once is enough."""
    return passwords.hash_password(PASSWORD)


@pytest.fixture
def claimed(unclaimed: Desk, password_hash: str) -> Desk:
    """The application with one account, nobody logged in."""
    code = unclaimed.portal.store.claim_code()
    assert code and unclaimed.portal.store.claim(code, Account(NAME, password_hash, unclaimed.hands.wall))
    return unclaimed


@pytest.fixture
def desk(claimed: Desk) -> Desk:
    """The application with its one person logged in."""
    token = claimed.portal.sessions.create(NAME).token
    claimed.client.cookies.set(SESSION_COOKIE, token, domain="appliance.local")
    return claimed
