"""The request drop box: anybody in the right group may ask for a check now. What they write is not trusted."""

from __future__ import annotations

import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from appliance_update.files import Unreadable, decode

LIMIT = 4096
MOST = 64
ORDER_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True)
class Request:
    """A wish: check now, and tell which order it was for. `version` is only what the asker expects to find."""

    order_id: str
    version: str = ""
    requested_at: float = 0.0
    store_path: str = ""
    flake: str = ""
    """On a host that keeps generations, what to install: it is installed only if the configuration allows it."""

    @property
    def generation(self) -> bool:
        """Whether it asks for a generation."""
        return bool(self.store_path or self.flake)


def parse(document: bytes) -> Request:
    """Read a request. Raises `Unreadable`."""
    if len(document) > LIMIT:
        raise Unreadable(f"a request has more than {LIMIT} bytes")
    request = decode(document, Request, "request")
    if not ORDER_ID.fullmatch(request.order_id):
        raise Unreadable("the request's order_id is empty, too long or has characters that do not belong there")
    return request


def take(directory: Path) -> tuple[list[Request], list[str]]:
    """Read and delete every request; the readable ones, oldest first, and a sentence for each of the others."""
    taken: list[tuple[float, Request]] = []
    refused: list[str] = []
    if not directory.is_dir():
        return [], []
    # One that is still being written has a dot; its rename will wake us again.
    for path in sorted(path for path in directory.iterdir() if not path.name.startswith("."))[:MOST]:
        try:
            taken.append(_take_one(path))
        except (Unreadable, OSError) as error:
            refused.append(f"{path.name[:80]!r}: {error}"[:300])
    taken.sort(key=lambda pair: pair[0])
    return [request for _, request in taken], refused


def _take_one(path: Path) -> tuple[float, Request]:
    try:
        # The directory belongs to others: no link is followed, no pipe waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise Unreadable("not a plain file")
            document = os.read(handle, LIMIT + 1)
        finally:
            os.close(handle)
    finally:
        _delete(path)
    return facts.st_mtime, parse(document)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
