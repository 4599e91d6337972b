"""The scanner's configuration: typed TOML, every error naming key and reason, unknown keys only warned of."""

from __future__ import annotations

import datetime
import ipaddress
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from network_scanner.addresses import parse_mac
from network_scanner.pacer import LIMIT_ALL, LIMIT_HOST

DEFAULT_PATH = Path("/etc/network-scanner/config.toml")
MAX_BYTES = 256 * 1024


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, key and reason."""


@dataclass(frozen=True)
class Schedule:
    """When the scanner may be active. Times of day are local time; listening never stops."""

    sweep_seconds: int = 600
    """Seconds between ARP sweeps."""
    scan_seconds: int = 21600
    """Seconds between full inventories."""
    jitter: float = 0.1
    """Share of an interval by which each is lengthened or shortened at random."""
    quiet_hours: tuple[str, ...] = ()
    """`HH:MM-HH:MM`, also across midnight: nothing is sent in these hours."""


@dataclass(frozen=True)
class Rate:
    """Packets a second at most; more than 100 in all or 10 a host is never done."""

    packets_per_second: int = LIMIT_ALL
    packets_per_second_per_host: int = LIMIT_HOST


@dataclass(frozen=True)
class Probing:
    """What a full inventory does beyond ARP."""

    connect: bool = True
    """Connect to the curated ports of devices with policy `standard`."""
    ask_names: bool = True
    """One multicast question each by mDNS, SSDP and WS-Discovery, and reverse look-ups at the resolver."""
    read_banners: bool = True
    """Read SSH banners and host keys, start pages and certificates of hosts that are neither printer nor medical."""
    snmp_community: str = ""
    """Ask hosts with this community for their description (SNMP v2c); empty: never."""


@dataclass(frozen=True)
class Config:
    """Everything that can be set. `interface` and `networks` empty: the default route's interface and its network."""

    interface: str = ""
    networks: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """IPv4 addresses, networks and MAC addresses that never get a packet from us."""
    schedule: Schedule = field(default_factory=Schedule)
    rate: Rate = field(default_factory=Rate)
    probing: Probing = field(default_factory=Probing)
    state_directory: str = "/var/lib/network-scanner"
    socket: str = "/run/network-scanner/api.sock"


@dataclass(frozen=True)
class Loaded:
    """A configuration and what is odd about it."""

    config: Config
    warnings: tuple[str, ...] = ()


def load(path: Path) -> Loaded:
    """Read a file. Raises `ConfigError`; a missing file is one, since a scanner without exclusions is not safe."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes are more than a configuration needs (at most {MAX_BYTES})")
    return parse(raw, str(path))


def parse(raw: bytes, name: str = "configuration") -> Loaded:
    """Read a configuration's text. Raises `ConfigError`."""
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    warnings = [f"{name}: unknown key {key!r} is ignored" for key in _unknown(document, Config)]
    try:
        config = msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {_readable(str(error))}") from error
    _check(config, name)
    return Loaded(config, tuple(warnings))


def _unknown(document: dict[str, Any], model: type[Any], prefix: str = "") -> list[str]:
    known = {item.name for item in fields(model)}
    hints = get_type_hints(model)
    found = []
    for key, value in document.items():
        if key not in known:
            found.append((prefix + key)[:120])
        elif is_dataclass(hints[key]) and isinstance(value, dict):
            found += _unknown(value, hints[key], f"{prefix}{key}.")
    return found


def _readable(message: str) -> str:
    """msgspec says `Expected `int`, got `str` - at `$.rate.x``; a person wants the key first."""
    reason, _, place = message.partition(" - at ")
    return f"{place.strip('`').removeprefix('$.')}: {reason}" if place else message


def _check(config: Config, name: str) -> None:
    for entry in config.exclude:
        _excludable(entry, name)
    for entry in config.networks:
        _network(entry, name)
    for entry in config.schedule.quiet_hours:
        quiet_span(entry, name)
    positive = {
        "schedule.sweep_seconds": (config.schedule.sweep_seconds, 30, 86400),
        "schedule.scan_seconds": (config.schedule.scan_seconds, 300, 31 * 86400),
        "schedule.jitter": (config.schedule.jitter, 0, 0.5),
        "rate.packets_per_second": (config.rate.packets_per_second, 10, LIMIT_ALL),
        "rate.packets_per_second_per_host": (config.rate.packets_per_second_per_host, 5, LIMIT_HOST),
    }
    for key, (value, low, high) in positive.items():
        if not low <= value <= high:
            raise ConfigError(f"{name}: {key}: {value} is not between {low} and {high}")


def _network(entry: str, name: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(entry, strict=False)
    except ValueError as error:
        raise ConfigError(f"{name}: networks: {entry[:60]!r} is not an IPv4 network ({str(error)[:120]})") from error


def _excludable(entry: str, name: str) -> ipaddress.IPv4Network | str:
    try:
        return parse_mac(entry)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Network(entry, strict=False)
    except ValueError as error:
        raise ConfigError(
            f"{name}: exclude: {entry[:60]!r} is neither a MAC address nor an IPv4 address or network"
        ) from error


@dataclass(frozen=True)
class Exclusions:
    """What the configuration excludes, ready to ask."""

    macs: frozenset[str]
    networks: tuple[ipaddress.IPv4Network, ...]

    @classmethod
    def of(cls, config: Config) -> Exclusions:
        """Read the `exclude` entries of a checked configuration."""
        entries = [_excludable(entry, "exclude") for entry in config.exclude]
        return cls(
            frozenset(entry for entry in entries if isinstance(entry, str)),
            tuple(entry for entry in entries if not isinstance(entry, str)),
        )

    def covers(self, mac: str, ip: str) -> bool:
        """Whether a device with this MAC or IPv4 address is excluded."""
        if mac in self.macs:
            return True
        if not ip or ":" in ip:
            return False
        address = ipaddress.IPv4Address(ip)
        return any(address in network for network in self.networks)


def quiet_span(entry: str, name: str = "configuration") -> tuple[datetime.time, datetime.time]:
    """Start and end of a quiet span. Raises `ConfigError`."""
    start, _, end = entry.partition("-")
    try:
        return datetime.time.fromisoformat(start.strip()), datetime.time.fromisoformat(end.strip())
    except ValueError as error:
        raise ConfigError(f"{name}: schedule.quiet_hours: {entry[:40]!r} is not HH:MM-HH:MM") from error


def is_quiet(schedule: Schedule, now: datetime.datetime) -> bool:
    """Whether nothing may be sent at local time `now`."""
    clock = now.time().replace(tzinfo=None)
    for entry in schedule.quiet_hours:
        start, end = quiet_span(entry)
        if (start <= clock < end) if start <= end else (clock >= start or clock < end):
            return True
    return False
