"""The portal's settings: a TOML file where everything is optional."""

from __future__ import annotations

import ipaddress
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from appliance_protocol.local import AGENT_SOCKET, SCANNER_SOCKET

DEFAULT_PATH = Path("/etc/local-portal/config.toml")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file, the key and the reason."""


@dataclass(frozen=True)
class Config:
    """Everything that may differ between sites. Durations are in the unit their name ends in."""

    state_directory: str = "/var/lib/local-portal"
    runtime_directory: str = "/run/local-portal"
    agent_socket: str = str(AGENT_SOCKET)
    scanner_socket: str = str(SCANNER_SOCKET)
    updater_status: str = "/run/appliance-update/status.json"
    updater_history: str = "/var/lib/appliance-update/history.jsonl"
    os_release: str = "/usr/lib/os-release"
    listen: str = "127.0.0.1:8443"
    """Where to listen when systemd hands over no socket."""
    names: tuple[str, ...] = ()
    """Further DNS names under which the portal may be opened; part of the certificate when set before first start."""
    idle_minutes: int = 30
    """45 CFR 164.312(a)(2)(iii), automatic logoff."""
    session_hours: int = 12
    backend_seconds: float = 2.5
    """How long a page waits for another service before it goes on without it."""

    def __post_init__(self) -> None:
        if not 1 <= self.idle_minutes <= 24 * 60:
            raise ValueError("idle_minutes must be 1 to 1440")
        if not 1 <= self.session_hours <= 24 * 7:
            raise ValueError("session_hours must be 1 to 168")
        if not 0.1 <= self.backend_seconds <= 30:
            raise ValueError("backend_seconds must be 0.1 to 30")
        parse_listen(self.listen)
        for name in self.names:
            if not name or len(name) > 253 or not all(char.isalnum() or char in "-." for char in name):
                raise ValueError(f"names: {name!r} is not a DNS name")

    @property
    def state(self) -> Path:
        """The directory that survives a reboot: accounts, certificates."""
        return Path(self.state_directory)

    @property
    def runtime(self) -> Path:
        """The directory that a reboot empties: sessions, failed attempts, the console's text."""
        return Path(self.runtime_directory)


def parse_listen(text: str) -> tuple[str, int]:
    """Split `127.0.0.1:8443` or `[::1]:8443`. Raises `ValueError` when it is neither."""
    host, _, port = text.rpartition(":")
    address = ipaddress.ip_address(host.strip("[]"))
    number = int(port)
    if not 0 <= number <= 65535:
        raise ValueError(f"listen: port {number} does not exist")
    return str(address), number


def load(path: Path = DEFAULT_PATH) -> tuple[Config, tuple[str, ...]]:
    """Read the settings and the warnings about keys nobody knows. A missing file means the defaults.

    Raises `ConfigError` when the file is unreadable, is not TOML, or holds a value of the wrong type or range.
    """
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return Config(), ()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    known = {field.name for field in fields(Config)}
    unknown = sorted(set(data) - known)
    try:
        config = msgspec.convert({key: value for key, value in data.items() if key in known}, Config)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; correct the file and restart local-portal.service") from error
    return config, tuple(f"{path}: unknown key {key!r} is ignored" for key in unknown)
