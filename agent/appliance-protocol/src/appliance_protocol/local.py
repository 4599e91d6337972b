"""Client for the appliance's own services: JSON over HTTP on a unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

from appliance_protocol.wire import MAX_DOCUMENT, Model, WireError, decode

AGENT_SOCKET = Path("/run/compliance-agent/api.sock")
SCANNER_SOCKET = Path("/run/network-scanner/api.sock")


class LocalServiceError(RuntimeError):
    """A local service that is not there, does not answer in time, or says no; the message names it and what to do."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def request(
    path: Path, method: str, resource: str, model: type[Model], *, body: object = None, timeout: float = 5.0
) -> Model:
    """One request to the service that listens on `path`; `timeout` in seconds.

    Raises `LocalServiceError` when the service cannot be reached, answers with an error, or answers garbage.
    """
    connection = _UnixConnection(path, timeout)
    try:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, resource, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        document = response.read(MAX_DOCUMENT + 1)
    except (OSError, http.client.HTTPException) as error:
        raise LocalServiceError(f"{path}: {error!r}; is its service running?") from error
    finally:
        connection.close()
    if response.status >= 400:
        said = document[:500].decode(errors="replace")
        raise LocalServiceError(f"{path}: {method} {resource} answered {response.status}: {said}")
    try:
        return decode(document, model)
    except WireError as error:
        raise LocalServiceError(f"{path}: {method} {resource}: {error}") from error
