"""The client for the appliance's unix sockets, against a real one."""

from __future__ import annotations

import http.server
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance_protocol.inventory import ScanSummary
from appliance_protocol.local import LocalServiceError, request


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
