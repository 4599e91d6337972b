"""A web server for static files that can misbehave like the ones in the field."""

from __future__ import annotations

import gzip
import http.server
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOGIN_PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>Welcome to ClinicGuest</title></head><body>Please log in</body></html>"
)


@dataclass
class WebServer:
    """Serves `directory`; the knobs apply to paths that contain `only`."""

    directory: Path
    only: str = ""
    ranges: bool = True
    wrong_range: bool = False
    login_page: bool = False
    login_type: str = "text/html; charset=utf-8"
    redirect: str = ""
    flip: int | None = None
    extra: int = 0
    status: int = 0
    packed: bool = False
    """Compress on the way although nobody asked, as some proxies do (after Range is applied)."""
    encoding: str = ""
    """Say this Content-Encoding without doing it."""
    said_length: int | None = None
    """Add this to the Content-Length that is said, in so many answers as `lies`."""
    lies: int = 1
    cut_after: int | None = None
    cuts: int = 10**9
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        knobs = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = 1 << 16

            def do_GET(self) -> None:
                knobs.serve(self)

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are the point
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.requests.append((handler.path, wanted))
        hit = self.only in handler.path
        if hit and self.status:
            self._answer(handler, self.status, b"not today", {})
            return
        if hit and self.redirect:
            self._answer(handler, 302, b"", {"Location": self.redirect})
            return
        if hit and self.login_page:
            self._answer(handler, 200, LOGIN_PAGE, {"Content-Type": self.login_type})
            return
        try:
            body = (self.directory / handler.path.lstrip("/")).read_bytes()
        except OSError:
            self._answer(handler, 404, b"no such file", {})
            return
        if hit and self.flip is not None:
            body = body[: self.flip] + bytes([body[self.flip] ^ 1]) + body[self.flip + 1 :]
        if hit and self.extra:
            body += bytes(self.extra)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if wanted and self.ranges and start >= len(body):
            self._answer(handler, 416, b"", {"Content-Range": f"bytes */{len(body)}"})
            return
        said = start + 7 if self.wrong_range else start
        headers = {"Content-Range": f"bytes {said}-{len(body) - 1}/{len(body)}"} if start else {}
        self._answer(handler, 206 if start else 200, body[start:], headers, hit)

    def _answer(
        self,
        handler: http.server.BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str],
        hit: bool = False,
    ) -> None:
        if hit and self.packed:
            body, headers = gzip.compress(body), {**headers, "Content-Encoding": "gzip"}
        if hit and self.encoding:
            headers = {**headers, "Content-Encoding": self.encoding}
        handler.send_response(status)
        for name, value in {"Content-Type": "application/octet-stream", **headers}.items():
            handler.send_header(name, value)
        wrong = (self.said_length or 0) if hit and self.lies > 0 else 0
        handler.send_header("Content-Length", str(len(body) + wrong))
        handler.end_headers()
        if hit and self.cut_after is not None and self.cuts > 0 and len(body) > self.cut_after:
            self.cuts -= 1
            handler.wfile.write(body[: self.cut_after])
            handler.close_connection = True
            return
        if wrong:
            self.lies -= 1
            handler.close_connection = True
            body = body[: max(0, len(body) + wrong)]
        handler.wfile.write(body)


@dataclass
class Proxy:
    """An HTTP proxy that sends whatever it is asked for to `upstream`, whatever the name; `login` is demanded."""

    upstream: str
    login: str = ""
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy.serve(self)

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        if self.login and handler.headers.get("Proxy-Authorization") != self.login:
            handler.send_response(407)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        path = handler.path.split("/", 3)[3]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.upstream + path) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, b""
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
