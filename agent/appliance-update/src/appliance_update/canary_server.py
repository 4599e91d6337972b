"""The canary's files over HTTP on loopback, for the time of a rehearsal; on demand not the ones that were signed."""

from __future__ import annotations

import http.server
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class CanaryServer:
    """A running server: where it is, and whether it flips the last byte of every target it hands out."""

    url: str
    tampering: bool = False


@contextmanager
def served(directory: Path) -> Iterator[CanaryServer]:
    """Serve the files below `directory` to this machine alone. Raises `OSError` when no port can be had."""
    root = directory.resolve()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = (root / urllib.parse.unquote(self.path).lstrip("/")).resolve()
            if not path.is_relative_to(root) or not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            if server.tampering and self.path.startswith("/targets/"):
                content = content[:-1] + bytes([content[-1] ^ 1])
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: the stages say what happened."""

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = CanaryServer(f"http://127.0.0.1:{web.server_address[1]}")
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        web.shutdown()
        web.server_close()
