"""Blocking work off the loop, each piece with a deadline of its own.

A thread cannot be ended from outside. One that misses its deadline is left alone (it is a daemon thread and holds up
nobody's exit), and the caller goes on with an error.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")
DISK_DEADLINE = 20.0
"""Seconds a database may take for one transaction: an eMMC that erases a block, not a dead disk."""


class DeadlineMissed(TimeoutError):
    """Work that was not done in time; the message names it."""


async def in_thread(work: Callable[..., Result], *arguments: Any, deadline: float, name: str = "") -> Result:
    """`work(*arguments)` in a thread of its own; its result or its exception.

    Raises `DeadlineMissed` when it takes more than `deadline` seconds; the thread then finishes unheard.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()
    title = name or getattr(work, "__name__", "work")

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def body() -> None:
        result: Result | None = None
        error: BaseException | None = None
        try:
            result = work(*arguments)
        except BaseException as raised:  # handed to the caller, whatever it is
            error = raised if not isinstance(raised, StopIteration) else RuntimeError(repr(raised))
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop is closed: the program is ending
            return

    threading.Thread(target=body, name=title[:15], daemon=True).start()
    try:
        async with asyncio.timeout(deadline):
            return await future
    except TimeoutError:
        if future.done() and not future.cancelled():
            raise  # the work itself raised it
        raise DeadlineMissed(f"{title} took more than {deadline:g} s") from None


async def on_disk(work: Callable[..., Result], *arguments: Any) -> Result:
    """`in_thread` for a transaction on the state disk."""
    return await in_thread(work, *arguments, deadline=DISK_DEADLINE)
