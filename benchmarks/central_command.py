"""Central Command beside a bare ASGI application: signed check-ins a second, under the same uvicorn settings.

`python -m benchmarks central_command` prints the rows. Every check-in is verified, stored durably
(SQLite: fsync; PostgreSQL: its default) and answered with a signed reply; the bare application reads the same
requests and answers with as many bytes, no more. Server and client share the machine's cores.
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance_protocol import device_api
from appliance_protocol.envelope import PayloadType, seal
from benchmarks.rows import Better, Row
from central_command import serve, sites
from central_command.settings import Settings
from tests.central_command import rig

DEVICES = 48
"""Connections held at the same time, one a device."""
CHECKINS = 60
"""Check-ins of each device in a run."""
ROUNDS = 3
"""Other work on the machine only ever slows a round down, so the best one is the nearest to the truth."""
LIMITS = """
[limits]
address_rate = 1000000.0
address_burst = 1000000
device_rate = 1000000.0
device_burst = 1000000
"""


def measure() -> Iterator[Row]:
    """The rows for `make bench`."""
    with tempfile.TemporaryDirectory(prefix="central-bench-") as folder:
        postgres = rig.Postgres()
        try:
            for name, url in (
                ("SQLite", f"sqlite:///{folder}/sqlite/central.db"), ("PostgreSQL", postgres.new_url()),
            ):
                ours, rival = rates(Path(folder) / name.lower(), url)
                yield Row(f"check-ins on {name}", "1/s", ours, rival, "bare ASGI application", Better.HIGHER)
        finally:
            postgres.close()


def rates(folder: Path, url: str) -> tuple[float, float]:
    """Requests a second of Central Command and of the bare application: by turns, the best of `ROUNDS` each."""
    central = rig.Central(folder, url, rig.Certificates(Path(), Path(), Path()), LIMITS).prepare()
    command = [*central.arguments(), "serve", "--host", "127.0.0.1", "--port", "0"]
    with server(command, central.environment()) as port:
        central.url = f"http://127.0.0.1:{port}"
        devices = enrolled(central)
        ours, rival = 0.0, 0.0
        for _ in range(ROUNDS):
            requests = [[request(device) for _ in range(CHECKINS)] for device in devices]
            rate, size = asyncio.run(load(port, requests))
            ours, rival = max(ours, rate), max(rival, bare_rate(requests, size))
    return ours, rival


def enrolled(central: rig.Central) -> list[rig.DeviceClient]:
    """A fleet, each with a code of its own."""

    async def codes() -> list[str]:
        async with central.database() as database, database.write() as connection:
            site = await sites.create(connection, rig.TESTER, f"Bench {secrets.token_hex(4)}")
            return [(await sites.create_code(connection, rig.TESTER, site, 600))[1] for _ in range(DEVICES)]

    fleet = []
    for code in asyncio.run(codes()):
        fleet.append(rig.DeviceClient(central))
        fleet[-1].enrol(code)
    return fleet


def request(device: rig.DeviceClient) -> bytes:
    """The device's next check-in, signed, as it goes over the wire."""
    body = seal(device.checkin_payload(), PayloadType.CHECKIN, device.key).to_bytes()
    head = f"POST {device_api.CHECKIN} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def bare_rate(requests: list[list[bytes]], size: int) -> float:
    """Requests a second of an application that does nothing with them."""
    with server([sys.executable, "-m", "benchmarks.central_command", "--bare", str(size)], None) as port:
        return asyncio.run(load(port, requests))[0]


@contextmanager
def server(command: list[str], environment: dict[str, str] | None) -> Iterator[int]:
    """A server process; yields the port it says it listens on."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"{command[0]} did not start")
        yield int(line.rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


async def load(port: int, requests: list[list[bytes]]) -> tuple[float, int]:
    """Requests a second with one connection a device, and the size of one reply. Raises on any answer but 200."""
    sizes = [0] * len(requests)

    async def one(number: int, waiting: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for message in waiting:
            writer.write(message)
            sizes[number] = await answered(reader)
        writer.close()

    start = time.monotonic()
    await asyncio.gather(*(one(number, waiting) for number, waiting in enumerate(requests)))
    return sum(map(len, requests)) / (time.monotonic() - start), sizes[0]


async def answered(reader: asyncio.StreamReader) -> int:
    """Read one reply; returns the size of its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"answered {head[:80]!r}")
    size = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
    await reader.readexactly(size)
    return size


def serve_bare(size: int) -> None:
    """The rival: reads the body, answers `size` bytes."""
    reply = b"x" * size
    headers = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]

    async def app(scope: object, receive: object, send: object) -> None:
        while (await receive()).get("more_body"):  # type: ignore[operator]
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": reply})  # type: ignore[operator]

    settings = Settings(port=0)
    asyncio.run(serve.Server(serve.configuration(settings, app, lifespan="off")).serve())


if __name__ == "__main__":
    serve_bare(int(sys.argv[2]))
