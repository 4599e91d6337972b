"""How much anybody may ask of the server: sizes, durations, rates."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from central_command import problems
from central_command.problems import ProblemError

_MAX_CLIENTS = 20_000
_SLOWEST = 4096
"""Bytes a second."""


class RateLimiter:
    """A token bucket a client: `rate` tokens a second up to `burst`. The client unseen for longest is forgotten."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, cost: int = 1) -> float:
        """Take `cost` tokens. Returns 0, or the seconds until there are enough (nothing is taken then)."""
        now = time.monotonic()
        tokens, at = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - at) * self._rate)
        enough = tokens >= cost
        self._buckets[client] = (tokens - cost if enough else tokens, now)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if enough else (cost - tokens) / self._rate

    def check(self, client: str) -> None:
        """Take a token, or raise the problem 429."""
        seconds = self.wait(client)
        if seconds > 0:
            raise problems.too_many(seconds)

    def exhausted(self, client: str) -> None:
        """Raise the problem 429 when no token is left, without taking one (see `wait` to take one on failure)."""
        seconds = self.wait(client, 0) if self._left(client) >= 1 else 1 / self._rate
        if seconds > 0:
            raise problems.too_many(seconds)

    def _left(self, client: str) -> float:
        tokens, at = self._buckets.get(client, (float(self._burst), time.monotonic()))
        return tokens + (time.monotonic() - at) * self._rate


class BoundedBody:
    """ASGI middleware: the whole body, within a size and a time, before the application sees the request.

    `limits` gives bytes by path prefix, the longest prefix wins. A body that is too large, too slow or not sent in
    full never reaches a parser. Slow is: longer than `seconds`, and less than 4 KiB a second beyond that (a clinic
    with a thin uplink sends its evidence too).
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int], seconds: float) -> None:
        self._app = app
        self._limits = sorted(limits.items(), key=lambda item: -len(item[0]))
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except ProblemError as error:
            await problems.response(error)(scope, receive, send)
            return
        except TimeoutError:
            said = "The request's body came too slowly and was dropped; send it again."
            slow = ProblemError(408, said, headers={"Connection": "close"})
            await problems.response(slow)(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _once(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        limit = next(size for prefix, size in self._limits if scope["path"].startswith(prefix))
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > limit:
                raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        start = asyncio.get_running_loop().time()
        async with asyncio.timeout_at(start + self._seconds) as patience:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise _too_large(limit)
                if not message.get("more_body", False):
                    return b"".join(parts)
                patience.reschedule(start + self._seconds + size / _SLOWEST)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(413, f"The request's body is too large: at most {limit} bytes are read here.")


def _once(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
