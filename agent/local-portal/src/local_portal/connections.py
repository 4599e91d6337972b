"""HTTP connections that cannot be used to keep others out: slow and idle ones are closed, one address gets a few."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 15.0
"""In which a whole request head must have arrived, counted from the connection's start or the last answer."""
PER_ADDRESS = 32


class PatientProtocol(H11Protocol):
    """uvicorn's protocol with a deadline for request heads and a limit for each address."""

    _open: Counter[str] = Counter()  # noqa: RUF012 - shared by all connections on purpose

    def connection_made(self, transport: Any) -> None:
        """Count the connection; refuse it when its address has too many."""
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if peer else "unknown"
        self._deadline: asyncio.TimerHandle | None = None
        type(self)._open[self._peer] += 1
        super().connection_made(transport)
        if type(self)._open[self._peer] > PER_ADDRESS:
            transport.abort()
            return
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        open_ = type(self)._open
        open_[self._peer] -= 1
        if open_[self._peer] <= 0:
            del open_[self._peer]
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Once a request head is whole, the deadline is over; the pages have their own for the body."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """The next request on this connection gets its own deadline."""
        super().on_response_complete()
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self._expect_request()

    def _expect_request(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
