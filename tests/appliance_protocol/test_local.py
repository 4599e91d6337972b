"""The client for the appliance's unix sockets, against a real one."""

from __future__ import annotations

import http.server
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance_protocol.inventory import ScanSummary
from appliance_protocol.local import LocalServiceError, request
from appliance_protocol.wire import MAX_DOCUMENT


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def get_request(self):  # type: ignore[no-untyped-def]
        connection, _ = super().get_request()
        return connection, ("unix", 0)


@contextmanager
def service(path: Path, status: int, body: bytes) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = _UnixServer(str(path), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


GOOD = b'{"id":"1","started_at":1,"finished_at":null,"network":"10.0.0.0/24","hosts_up":2,"packets_sent":3}'


def test_an_answer_is_read_as_its_model(tmp_path: Path) -> None:
    with service(tmp_path / "s", 200, GOOD):
        assert request(tmp_path / "s", "GET", "/v1/scans/1", ScanSummary).hosts_up == 2


def test_a_missing_service_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalServiceError, match="is its service running"):
        request(tmp_path / "absent", "GET", "/", ScanSummary)


@pytest.mark.parametrize(("status", "body"), [(500, b"{}"), (404, b"no"), (200, b"garbage"), (200, b"{}"), (200, b"")])
def test_anything_else_is_one_error_that_names_the_socket(tmp_path: Path, status: int, body: bytes) -> None:
    with service(tmp_path / "s", status, body), pytest.raises(LocalServiceError, match=str(tmp_path)):
        request(tmp_path / "s", "GET", "/", ScanSummary)


def answering(path: Path, answer: bytes) -> list[bytes]:
    """A service that takes one request and says `answer`, whatever that is; what it was asked."""
    asked: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            asked.append(connection.recv(65536))
            try:
                connection.sendall(answer)
            except OSError:  # it had heard enough
                return

    threading.Thread(target=serve, daemon=True).start()
    return asked


def test_what_is_sent_arrives_with_its_length(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(GOOD)
    asked = answering(tmp_path / "s", head + GOOD)
    assert request(tmp_path / "s", "PUT", "/v1/x", ScanSummary, body={"policy": "limited"}).id == "1"
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /v1/x HTTP/1.1\r\n")
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert body == b'{"policy": "limited"}'


def test_an_order_without_a_body_says_so(tmp_path: Path) -> None:
    asked = answering(tmp_path / "s", b"HTTP/1.1 202 Accepted\r\nConnection: close\r\n\r\n" + GOOD)
    assert request(tmp_path / "s", "POST", "/v1/scans", ScanSummary).id == "1"
    assert b"content-length: 0" in asked[0].lower()


@pytest.mark.parametrize("answer", [
    b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", b"SSH-2.0-OpenSSH\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 99999, b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (MAX_DOCUMENT + 9),
])  # fmt: skip
def test_an_answer_that_is_none_or_never_ends_is_an_error_too(tmp_path: Path, answer: bytes) -> None:
    answering(tmp_path / "s", answer)
    with pytest.raises(LocalServiceError, match=str(tmp_path)):
        request(tmp_path / "s", "GET", "/", ScanSummary)
