"""The system bus, through pydbus; loaded when first used, because it costs memory."""

from __future__ import annotations

import threading
from typing import Any

from compliance_agent.checks.base import CheckError

TIMEOUT = 3
"""Seconds a call may take."""
PROPERTIES = "org.freedesktop.DBus.Properties"
MAX_PROXIES = 16
"""Proxies kept: making one costs an introspection of the object, which for systemd's manager is 50 KB of XML."""


class SystemBus:
    """The bus as checks see it (`checks.base.Bus`); may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Any = None
        self._proxies: dict[tuple[str, str], Any] = {}

    def property(self, service: str, path: str, interface: str, name: str) -> Any:
        """One property. Raises `CheckError` when the bus, the service or the property is not there."""
        return self._call(service, path, PROPERTIES, "Get", interface, name)

    def call(self, service: str, path: str, interface: str, method: str, *arguments: Any) -> Any:
        """One method call. Raises `CheckError` when it fails or takes longer than `TIMEOUT`."""
        return self._call(service, path, interface, method, *arguments)

    def _call(self, service: str, path: str, interface: str, method: str, *arguments: Any) -> Any:
        query = f"D-Bus {interface}.{method}({', '.join(map(str, arguments))[:80]}) of {path}"
        try:
            function = getattr(self._proxy(service, path)[interface], method)
            return function(*arguments, timeout=TIMEOUT)
        except CheckError:
            raise
        except Exception as error:  # GLib.Error, KeyError for an unknown interface, AttributeError for a method
            raise CheckError(f"{query} failed: {_words(error)}", query) from error

    def _proxy(self, service: str, path: str) -> Any:
        with self._lock:
            if self._connection is None:
                import pydbus

                self._connection = pydbus.SystemBus()
            known = self._proxies.get((service, path))
            connection = self._connection
        if known is None:
            known = connection.get(service, path, timeout=TIMEOUT)
            with self._lock:
                while len(self._proxies) >= MAX_PROXIES:
                    self._proxies.pop(next(iter(self._proxies)))
                self._proxies[(service, path)] = known
        return known


def _words(error: Exception) -> str:
    message = getattr(error, "message", None)
    return str(message or error) or repr(error)
