"""The other services of the appliance, as the portal reads them: an answer, or the reason why there is none."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from appliance_protocol import local
from appliance_protocol.wire import Model

Value = TypeVar("Value")


@dataclass(frozen=True)
class Reading(Generic[Value]):
    """What a service said. Exactly one of `value` and `problem` is there."""

    value: Value | None
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.value is not None


class Backend:
    """One service behind a unix socket. It has threads of its own, so that a hanging one holds up nobody else."""

    def __init__(self, name: str, unit: str, socket: Path, patience: float) -> None:
        self.name = name
        self.unit = unit
        self._socket = socket
        self._patience = patience
        self._pool = ThreadPoolExecutor(max_workers=3, thread_name_prefix=unit)
        self._waiting = 0

    async def read(self, resource: str, model: type[Model]) -> Reading[Model]:
        """GET a resource; never raises for what the service does or fails to do."""
        return await self.call("GET", resource, model)

    async def call(
        self, method: str, resource: str, model: type[Model], *, body: Any = None, patience: float | None = None
    ) -> Reading[Model]:
        """One request; `patience` in seconds, where the usual one is too short."""
        limit = patience or self._patience
        if self._waiting >= 64:
            return Reading(None, f"The {self.name} has not answered many earlier requests.")
        self._waiting += 1
        started = time.monotonic()

        def send() -> Model:
            left = limit - (time.monotonic() - started)
            if left <= 0:  # its page has long gone on without it
                raise local.LocalServiceError("timed out in the queue")
            return local.request(self._socket, method, resource, model, body=body, timeout=left)

        future = asyncio.get_running_loop().run_in_executor(self._pool, send)
        future.add_done_callback(self._done)
        try:
            return Reading(await asyncio.wait_for(asyncio.shield(future), limit + 0.2))
        except TimeoutError:
            return Reading(None, f"The {self.name} did not answer within {limit:g} seconds.")
        except local.LocalServiceError as error:
            return Reading(None, self._explain(error, limit))

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # looked at, so that a late failure is no unhandled one

    def _explain(self, error: local.LocalServiceError, limit: float) -> str:
        cause, text = error.__cause__, str(error)
        if isinstance(cause, TimeoutError) or "timed out" in text:
            return f"The {self.name} did not answer within {limit:g} seconds."
        if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
            return f"The {self.name} is not running."
        if isinstance(cause, OSError):
            return f"The {self.name} cannot be reached ({cause.strerror or cause})."
        if " answered " in text:
            return f"The {self.name} refused: {text.split(' answered ', 1)[1][:300]}"
        return f"The {self.name} answered something that cannot be read."

    def close(self) -> None:
        """Let go of the threads; those that still wait are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
