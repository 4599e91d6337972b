"""Client for the appliance's own services: JSON over HTTP on a unix socket.

By h11, which every service has loaded as its server's parser; http.client would bring a parser for e-mail, 0.6 MiB.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import h11

from appliance_protocol.wire import MAX_DOCUMENT, Model, WireError, decode

AGENT_SOCKET = Path("/run/compliance-agent/api.sock")
SCANNER_SOCKET = Path("/run/network-scanner/api.sock")


class LocalServiceError(RuntimeError):
    """A local service that is not there, does not answer in time, or says no; the message names it and what to do."""


def request(
    path: Path, method: str, resource: str, model: type[Model], *, body: object = None, timeout: float = 5.0
) -> Model:
    """One request to the service that listens on `path`; `timeout` in seconds.

    Raises `LocalServiceError` when the service cannot be reached, answers with an error, or answers garbage.
    """
    content = b"" if body is None else json.dumps(body).encode()
    try:
        status, document = _exchange(path, method, resource, content, timeout)
    except (OSError, h11.ProtocolError) as error:
        raise LocalServiceError(f"{path}: {error!r}; is its service running?") from error
    if status >= 400:
        said = document[:500].decode(errors="replace")
        raise LocalServiceError(f"{path}: {method} {resource} answered {status}: {said}")
    try:
        return decode(document, model)
    except WireError as error:
        raise LocalServiceError(f"{path}: {method} {resource}: {error}") from error


def _exchange(path: Path, method: str, resource: str, content: bytes, timeout: float) -> tuple[int, bytes]:
    """Status and body of the answer, the body cut off where it exceeds what a document may have."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", "localhost"), ("Connection", "close")]
    if content or method != "GET":
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    events = (h11.Request(method=method, target=resource, headers=headers), h11.Data(data=content), h11.EndOfMessage())
    status, document = 0, bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(str(path))
        sock.sendall(b"".join(connection.send(event) or b"" for event in events))
        while len(document) <= MAX_DOCUMENT:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(sock.recv(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                document += event.data
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                break
    return status, bytes(document)
