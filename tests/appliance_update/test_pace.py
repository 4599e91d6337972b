"""The bandwidth cap holds over any stretch of time, and lets a second's worth through at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_update.pace import Bucket
from appliance_update.web import body, opened, session
from tests.appliance_update.web_server import WebServer


class Clock:
    """Time that passes only by sleeping or by waiting for the network."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@given(st.floats(100, 1e9), st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, 5)), max_size=50))
def test_never_more_than_rate_times_time_and_a_second(rate: float, received: list[tuple[int, float]]) -> None:
    clock = Clock()
    bucket, begin, total = Bucket(rate, clock, clock.sleep), clock.now, 0
    for count, waited in received:
        clock.now += waited
        bucket.take(count)
        total += count
        assert total <= rate * (clock.now - begin + 1) * (1 + 1e-6) + 1


@given(st.lists(st.integers(1, 1 << 20), max_size=20))
def test_without_a_cap_nobody_sleeps(counts: list[int]) -> None:
    bucket = Bucket(0.0, sleep=lambda _seconds: pytest.fail("slept"))
    for count in counts:
        bucket.take(count)


def test_a_slow_link_is_not_slowed_further() -> None:
    clock = Clock()
    bucket = Bucket(1000.0, clock, lambda _seconds: pytest.fail("slept"))
    for _ in range(100):
        clock.now += 1.0
        bucket.take(900)


def test_the_cap_holds_on_a_real_connection(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 2000)
    server = WebServer(tmp_path)
    client = session("test", bytes_per_second=400_000)
    begin = time.monotonic()
    try:
        with opened(client, f"{server.url}file") as response:
            length = sum(len(piece) for piece in body(client, response, 512_000))
    finally:
        server.close()
    assert length == client.received == 512_000
    assert time.monotonic() - begin >= 0.2  # the first second's worth goes at once, the rest is paced
