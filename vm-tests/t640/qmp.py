"""QEMU's control socket (QMP): commands, and the events in the order in which they came."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from pathlib import Path
from typing import Any

from t640.errors import RigError


class Qmp:
    """A connection to one QEMU. Not for several threads at once."""

    def __init__(self, path: Path, timeout: float = 20.0) -> None:
        self._socket = connect(path, timeout)
        self._file = self._socket.makefile("rb")
        self._replies: queue.Queue[dict[str, Any]] = queue.Queue()
        self.events: list[dict[str, Any]] = []
        """Every event so far, oldest first; `event` is the name."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.command("qmp_capabilities")

    def _read(self) -> None:
        try:
            for line in self._file:
                message = json.loads(line)
                if "event" in message:
                    self.events.append(message)
                elif "QMP" not in message:
                    self._replies.put(message)
        except (OSError, ValueError):
            pass
        self._replies.put({"error": {"desc": "QEMU closed its control socket"}})

    def command(self, name: str, /, timeout: float = 60.0, **arguments: Any) -> Any:
        """Run a command and return its result. Raises `RigError`."""
        message = {"execute": name, "arguments": arguments} if arguments else {"execute": name}
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
            reply = self._replies.get(timeout=timeout)
        except (OSError, queue.Empty) as error:
            raise RigError(f"QEMU did not answer {name!r}: {error!r}") from error
        if "error" in reply:
            raise RigError(f"QEMU refused {name!r}: {reply['error'].get('desc')}")
        return reply["return"]

    def human(self, line: str, timeout: float = 120.0) -> str:
        """A line for QEMU's human monitor (savevm and loadvm live there). Raises `RigError` when it complains."""
        answer = str(self.command("human-monitor-command", timeout, **{"command-line": line}))
        if "rror" in answer:
            raise RigError(f"QEMU refused {line!r}: {answer.strip()}")
        return answer

    def saw(self, event: str, since: int = 0) -> bool:
        """Whether an event of that name came after the first `since` ones."""
        return any(item["event"] == event for item in self.events[since:])

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()


def connect(path: Path, timeout: float) -> socket.socket:
    """Connect to a unix socket that is about to appear. Raises `RigError`."""
    end = time.monotonic() + timeout
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
            return connection
        except OSError as error:
            connection.close()
            if time.monotonic() > end:
                raise RigError(f"Nothing answers at {path}: {error}") from error
            time.sleep(0.05)
