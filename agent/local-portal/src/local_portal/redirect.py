"""Port 80: the one thing it says is "come back over HTTPS"."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from local_portal.guard import host_name
from local_portal.names import Names

_LONGEST = 8 * 1024
_PATIENCE = 10.0


class Redirect:
    """Answers any request under one of our own names with a redirect to the front page, everything else not at all."""

    def __init__(self, names: Callable[[], Names]) -> None:
        self._names = names

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one answer."""
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
        writer.close()

    def _answer(self, head: bytes) -> bytes:
        hosts = [line.split(b":", 1)[1].strip().decode("latin-1") for line in head.split(b"\r\n")[1:]
                 if line.lower().startswith(b"host:")]
        name = host_name(hosts[0]) if len(hosts) == 1 else ""
        names = self._names()
        if name not in names.dns and name not in names.addresses:
            return b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        host = f"[{name}]" if ":" in name else name
        return (f"HTTP/1.1 308 Permanent Redirect\r\nLocation: https://{host}/\r\nCache-Control: no-store\r\n"
                "Content-Length: 0\r\nConnection: close\r\n\r\n").encode("ascii", "replace")


async def serve(names: Callable[[], Names], **where: object) -> asyncio.Server:
    """Listen; `where` is what `asyncio.start_server` takes (`sock=`, or `host=` and `port=`)."""
    return await asyncio.start_server(Redirect(names), limit=_LONGEST, **where)  # type: ignore[arg-type]
