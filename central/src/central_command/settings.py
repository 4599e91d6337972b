"""What an administrator may set: /etc/central-command/config.toml, the environment, the command line (last wins)."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec

DEFAULT_FILE = Path("/etc/central-command/config.toml")
DEFAULT_DATA = Path("/var/lib/central-command")


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the key, the reason and what to write instead."""


@dataclass(frozen=True)
class Limits:
    """How much one client may ask of the server. Rates are requests a second, bursts are requests."""

    device_body_bytes: int = 4 * 1024 * 1024
    form_body_bytes: int = 64 * 1024
    body_seconds: float = 20.0
    """How long a client may take to send a request's head and, again, its body."""
    address_rate: float = 50.0
    address_burst: int = 200
    device_rate: float = 1.0
    device_burst: int = 30
    enrolment_failures: int = 10
    """Failed enrolments of one address in a quarter of an hour."""
    login_failures: int = 20
    """Failed logins of one address in a quarter of an hour."""
    connections: int = 2000


@dataclass(frozen=True)
class Settings:
    """Everything the server needs to know before it starts. Durations are in seconds."""

    host: str = "127.0.0.1"
    port: int = 8443
    tls_cert: str = ""
    tls_key: str = ""
    data: str = str(DEFAULT_DATA)
    database_url: str = ""
    """Empty: `central.db` in the data directory."""
    public_url: str = ""
    """Where browsers see the dashboard, such as `https://central.example.org`. Empty: what the browser asked for."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    checkin_interval: int = 60
    order_lifetime: int = 24 * 3600
    """How long an order may wait for its device."""
    order_deadline: int = 24 * 3600
    """How long after its expiry an order that a device took may stay without a result."""
    order_attempts: int = 20
    """Deliveries of one order without a word of the device about it."""
    code_lifetime: int = 7 * 24 * 3600
    session_lifetime: int = 12 * 3600
    session_idle: int = 2 * 3600
    lockout_failures: int = 5
    lockout_seconds: int = 900
    limits: Limits = field(default_factory=Limits)

    @property
    def data_directory(self) -> Path:
        """Where the server's key and, with SQLite, the database are."""
        return Path(self.data)

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.data_directory / 'central.db'}"

    @property
    def secure(self) -> bool:
        """Whether browsers come by HTTPS, so that cookies may insist on it."""
        return bool(self.tls_cert) or self.public_url.startswith("https://")


def load(
    path: Path | None, environment: Mapping[str, str] | None = None, **overrides: Any
) -> tuple[Settings, list[str]]:
    """The settings, and a warning for each key that is not known.

    `path` None reads the default file if it exists. `overrides` that are None are left out.
    Raises `SettingsError`.
    """
    environment = os.environ if environment is None else environment
    text = _read(path)
    try:
        given = msgspec.toml.decode(text)
        settings = msgspec.convert(given, Settings)
    except (msgspec.MsgspecError, ValueError) as error:
        raise SettingsError(f"{path or DEFAULT_FILE}: {error}") from error
    warnings = _unknown(given, path or DEFAULT_FILE)
    if environment.get("DATABASE_URL"):
        settings = replace(settings, database_url=environment["DATABASE_URL"])
    settings = replace(settings, **{key: value for key, value in overrides.items() if value is not None})
    _check(settings)
    return settings, warnings


def _read(path: Path | None) -> bytes:
    if path is None and not DEFAULT_FILE.exists():
        return b""
    try:
        return (path or DEFAULT_FILE).read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {path or DEFAULT_FILE}: {error.strerror}") from error


def _unknown(given: dict[str, Any], path: Path) -> list[str]:
    known = {item.name for item in fields(Settings)}
    inner = {item.name for item in fields(Limits)}
    strangers = [key for key in given if key not in known]
    strangers += [f"limits.{key}" for key in given.get("limits", {}) if key not in inner]
    return [f"{path}: {key} is not a setting of this version and is ignored" for key in strangers]


def _check(settings: Settings) -> None:
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise SettingsError("tls_cert and tls_key belong together: set both, or neither behind a proxy on this host")
    if not 0 <= settings.port <= 65535:
        raise SettingsError(f"port: {settings.port} is not a port; choose 1 to 65535 (0 takes a free one)")
    if not settings.tls_cert and not _loopback(settings.host):
        raise SettingsError(
            f"host: plain HTTP on {settings.host} would show logins to the network; "
            "set tls_cert and tls_key, or listen on 127.0.0.1 behind a proxy"
        )
    for name in ("checkin_interval", "order_lifetime", "order_attempts", "code_lifetime", "lockout_failures"):
        if getattr(settings, name) < 1:
            raise SettingsError(f"{name}: {getattr(settings, name)} is too small; 1 is the least")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
