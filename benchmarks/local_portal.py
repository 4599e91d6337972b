"""The local portal beside a bare Starlette and Jinja application that says hello, both over TLS, in the same run.

`python -m benchmarks local_portal` prints the rows.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.rows import Better, Row
from tests.local_portal import conftest as rig
from tests.local_portal.peers import Agent, Scanner, Updater

HELLO = """
import sys
import jinja2, uvicorn
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route
page = jinja2.Environment(autoescape=True).from_string("<!doctype html><title>Hello</title><h1>Hello {{ name }}</h1>")
async def hello(request):
    return HTMLResponse(page.render(name="clinic"))
uvicorn.run(Starlette(routes=[Route("/", hello)]), host="127.0.0.1", port=int(sys.argv[2]), http="h11", ws="none",
            lifespan="off", log_level="error", loop="asyncio", timeout_graceful_shutdown=1, ssl_certfile=sys.argv[1],
            ssl_keyfile=sys.argv[1])
"""
PAGES = ("/", "/devices", "/compliance", "/evidence", "/updates", "/system")
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "PYTHONNODEBUGRANGES": "1",
    "WATCHDOG_USEC": "600000",
}
"""As in the unit, but keeping house every 0.2 s instead of 10, so that its part of the memory is there when read."""


@dataclass(frozen=True)
class Figures:
    """What one program showed."""

    started: float
    """Seconds from the start of the process to its first answered page."""
    first: float
    """Seconds of the first page, the TLS handshake included."""
    later: float
    """Median seconds of a further page on the same connection."""
    rest: float
    """Resident MiB after the start and one answer to a health probe."""
    memory: float
    """Resident MiB after a login (of ours) and every page."""


def resident(pid: int) -> float:
    """The resident set in MiB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) / 1024


@contextmanager
def plain_python(directory: Path) -> Iterator[dict[str, str]]:
    """Start children as the appliance does: the same modules, but no .pth files of this workstation."""
    wrapper, before = directory / "python", sys.executable
    wrapper.write_text(f'#!/bin/sh\nexec {before} -S "$@"\n')
    wrapper.chmod(0o755)
    sys.executable = str(wrapper)
    try:
        yield {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    finally:
        sys.executable = before


def _timed(client: httpx.Client, path: str) -> float:
    began = time.perf_counter()
    client.get(path).raise_for_status()
    return time.perf_counter() - began


def first_start(neighbours: rig.Neighbours, environment: dict[str, str]) -> str:
    """The start that makes CA, certificate and claim code; what is measured is a start like every later one."""
    running = rig.start_portal(neighbours, environment=environment)
    rig.stop_portal(running)
    return running.claim_code


def portal(neighbours: rig.Neighbours, environment: dict[str, str]) -> Figures:
    """The real portal with its real neighbours; the first page is the overview, with everything on it."""
    claim_code = first_start(neighbours, environment)
    began = time.perf_counter()
    running = rig.start_portal(neighbours, environment=environment)
    started = time.perf_counter() - began
    try:
        rest = resident(running.process.pid)
        with running.client() as client:
            token = client.get("/claim").text.split('name="token" value="')[1][:64]
            client.post("/claim", data={"token": token, "code": claim_code, "name": rig.NAME,
                                        "password": rig.PASSWORD, "again": rig.PASSWORD})
            cookies = client.cookies
        with running.client(cookies=cookies) as client:
            first = _timed(client, "/")
            later = statistics.median(_timed(client, "/") for _ in range(30))
            for path in PAGES * 3:
                _timed(client, path)
        time.sleep(1)  # several rounds of housekeeping
        return Figures(started, first, later, rest, resident(running.process.pid))
    finally:
        rig.stop_portal(running)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    limit = time.perf_counter() + 30
    while True:
        try:
            with httpx.Client(base_url=url, verify=False) as client:
                _timed(client, "/")
                return
        except httpx.TransportError:
            if process.poll() is not None or time.perf_counter() > limit:
                raise
            time.sleep(0.02)


def hello(chain: Path, environment: dict[str, str]) -> Figures:
    """The rival: nothing to read, nothing to check, one line to show."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"https://127.0.0.1:{port}"
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", HELLO, str(chain), str(port)], env={**os.environ, **environment})
    try:
        _wait_for(url, process)
        started = time.perf_counter() - began
        rest = resident(process.pid)
        with httpx.Client(base_url=url, verify=False) as fresh:
            first = _timed(fresh, "/")
            later = statistics.median(_timed(fresh, "/") for _ in range(30))
        return Figures(started, first, later, rest, resident(process.pid))
    finally:
        process.terminate()
        process.wait(15)


def measure() -> Iterable[Row]:
    """Memory, start and pages."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        agent, scanner = Agent(directory / "agent.sock"), Scanner(directory / "scanner.sock")
        agent.start()
        scanner.start()
        try:
            with plain_python(directory) as environment:
                ours = portal(rig.Neighbours(directory, agent, scanner, Updater(directory)), environment)
                theirs = hello(directory / "state" / "server.pem", environment)
        finally:
            agent.stop()
            scanner.stop()
    name = "bare Starlette + Jinja"
    return [
        Row("portal: memory at rest", "MiB", ours.rest, theirs.rest, name, Better.LOWER, bound=40),
        Row("portal: memory after login and pages", "MiB", ours.memory, theirs.memory, name, Better.LOWER, bound=40),
        Row("portal: first page", "s", ours.first, theirs.first, name, Better.LOWER, bound=0.3),
        Row("portal: further pages, median", "s", ours.later, theirs.later, name),
        Row("portal: start to first answer", "s", ours.started, theirs.started, name),
    ]

