"""The system bus, through pydbus; loaded when first used, because it costs memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from compliance_agent.errors import CheckError

TIMEOUT = 3
"""Seconds a call may take."""
PROPERTIES = "org.freedesktop.DBus.Properties"


class SystemBus:
    """The bus as checks see it (`checks.base.Bus`); may be used from any thread.

    Calls go to pydbus's connection and not through its proxies: making a proxy has the object describe itself first,
    which for systemd's manager is 50 KB of XML, and on a box that is still starting took checks past their deadline.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Any = None

    def property(self, service: str, path: str, interface: str, name: str) -> Any:
        """One property. Raises `CheckError` when the bus, the service or the property is not there."""
        return self._call(service, path, PROPERTIES, "Get", interface, name)

    def call(self, service: str, path: str, interface: str, method: str, *arguments: Any) -> Any:
        """One method call. Raises `CheckError` when it fails or takes longer than `TIMEOUT`."""
        return self._call(service, path, interface, method, *arguments)

    def _call(self, service: str, path: str, interface: str, method: str, *arguments: Any) -> Any:
        query = f"D-Bus {interface}.{method}({', '.join(map(str, arguments))[:80]}) of {path}"
        try:
            from gi.repository import Gio, GLib

            body = GLib.Variant(f"({''.join(map(signature, arguments))})", arguments)
            reply = self._connected().call_sync(
                service, path, interface, method, body, None, Gio.DBusCallFlags.NONE, TIMEOUT * 1000, None
            )
        except Exception as error:  # GLib.Error; ImportError where the libraries are not there
            raise CheckError(f"{query} failed: {_words(error)}", query) from error
        values = reply.unpack()
        return values[0] if len(values) == 1 else values or None

    def _connected(self) -> Any:
        with self._lock:
            if self._connection is None:
                import pydbus

                self._connection = pydbus.SystemBus().con
            return self._connection


def signature(argument: object) -> str:
    """The D-Bus type of an argument: a string or a list of strings, more no check asks with. Raises `TypeError`."""
    if isinstance(argument, str):
        return "s"
    if isinstance(argument, Sequence) and all(isinstance(item, str) for item in argument):
        return "as"
    raise TypeError(f"{argument!r} is neither a string nor a list of strings")


def _words(error: Exception) -> str:
    message = getattr(error, "message", None)
    return str(message or error) or repr(error)
