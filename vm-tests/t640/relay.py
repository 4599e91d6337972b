"""A door from this machine's loopback into the rig's namespaces: portal and Central Command in the reader's browser.

The listening socket is opened here and handed to a process inside the namespace (sockets stay where they were made).
`python -m t640.relay DESCRIPTOR HOST PORT` is that process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from dataclasses import dataclass

from t640.errors import RigError
from t640.paths import PACKAGE
from t640.session import Session

_TRIES = 20


@dataclass(frozen=True)
class Relay:
    """An open door. `port` is on 127.0.0.1."""

    port: int


def open_relay(session: Session, title: str, namespace: str, port: int, target: tuple[str, int]) -> Relay:
    """Listen on 127.0.0.1 (the next free port when `port` is taken) for `target` in a namespace. Raises `RigError`."""
    listener = _listen(port)
    try:
        argv = [sys.executable, "-m", "t640.relay", str(listener.fileno()), target[0], str(target[1])]
        environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
        session.start(title, argv, namespace=namespace, env=environment, pass_fds=[listener.fileno()])
        return Relay(listener.getsockname()[1])
    finally:
        listener.close()


def _listen(port: int) -> socket.socket:
    for candidate in range(port, port + _TRIES):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
        except OSError:
            listener.close()
            continue
        listener.listen(64)
        return listener
    raise RigError(f"No free port on 127.0.0.1 between {port} and {port + _TRIES - 1}.")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _serve(descriptor: int, target: tuple[str, int]) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            inner_reader, inner_writer = await asyncio.open_connection(*target)
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
            inner_writer.close()
        writer.close()

    server = await asyncio.start_server(forward, sock=socket.socket(fileno=descriptor))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), (sys.argv[2], int(sys.argv[3]))))
