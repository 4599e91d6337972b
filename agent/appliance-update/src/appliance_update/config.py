"""The updater's configuration: /etc/appliance-update/config.toml."""

from __future__ import annotations

import dataclasses
import datetime
import zoneinfo
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

CONFIG_FILE = Path("/etc/appliance-update/config.toml")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, key and reason."""


@dataclass(frozen=True)
class Window:
    """When the device may reboot into a new version. Without `start` and `end`: at any time.

    `start` and `end` are HH:MM in `time_zone` (IANA name); a window may go over midnight.
    """

    start: str = ""
    end: str = ""
    time_zone: str = "UTC"

    def open_at(self, seconds: float) -> bool:
        """Whether the window is open at a time given in seconds since the epoch. Raises `ConfigError`."""
        if not self.start and not self.end:
            return True
        try:
            zone = zoneinfo.ZoneInfo(self.time_zone)
            start, end = (datetime.time.fromisoformat(text) for text in (self.start, self.end))
        except (ValueError, zoneinfo.ZoneInfoNotFoundError, OSError) as error:
            raise ConfigError(f"[window]: {error}; start and end are HH:MM, time_zone like America/New_York") from error
        now = datetime.datetime.fromtimestamp(seconds, zone).time()
        return start <= now < end if start <= end else now >= start or now < end


@dataclass(frozen=True)
class Gate:
    """What a new system must prove before it is good. Times are seconds; an empty value leaves a check out."""

    deadline: float = 240.0
    units: tuple[str, ...] = ()
    portal: str = ""
    portal_ca: str = ""
    """A PEM file; without it the certificate is not checked: the portal's own CA is local and made on first boot."""
    progress_file: str = ""
    progress_within: float = 180.0
    state_directory: str = "/var"
    databases: tuple[str, ...] = ()
    """Glob patterns; a pattern that matches nothing passes (the service has not made its database yet)."""
    slots: bool = True
    """Whether both slots and the programs that write them must be there. False on a host that keeps generations."""
    rehearsal: str = "appliance-update-rehearse.service"
    """The unit that rehearses an update with this system's own updater; its report decides. Empty: none."""
    rehearsal_units: tuple[str, ...] = ()
    """Units started by the rehearsal after the updater's own part; each must end well."""


@dataclass(frozen=True)
class Paths:
    """Where things lie. Only NixOS and tests change these."""

    layout: str = "/usr/share/appliance-update/layout.toml"
    trusted_root: str = "/usr/share/appliance-update/root.json"
    state: str = "/var/lib/appliance-update"
    runtime: str = "/run/appliance-update"
    sysupdate: str = "/usr/lib/systemd/systemd-sysupdate"
    canary: str = "/usr/share/appliance-update/canary"
    """A tiny signed release for the rehearsal: metadata/, targets/, root.json (`appliance-release canary`)."""


@dataclass(frozen=True)
class Config:
    """All of config.toml. `repository` is the URL above metadata/ and targets/; empty: nothing to poll."""

    repository: str = ""
    device_class: str = "t640"
    reboot: bool = True
    """Whether `run` reboots into an armed version by itself (in the window)."""
    window: Window = field(default_factory=Window)
    gate: Gate = field(default_factory=Gate)
    paths: Paths = field(default_factory=Paths)


def load(path: Path = CONFIG_FILE) -> tuple[Config, list[str]]:
    """The configuration and warnings (unknown keys). A missing file is all defaults. Raises `ConfigError`."""
    try:
        data = msgspec.toml.decode(path.read_bytes())
        config = msgspec.convert(data, Config)
    except FileNotFoundError:
        return Config(), [f"{path} is missing; defaults apply, and no repository is polled"]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    config.window.open_at(0.0)
    return config, [f"{path}: {key} is not known and ignored" for key in _unknown(data, Config)]


def _unknown(data: dict[str, Any], model: Any, prefix: str = "") -> list[str]:
    fields = {item.name: item for item in dataclasses.fields(model)}
    found = []
    for key, value in data.items():
        if key not in fields:
            found.append(f"{prefix}{key}")
        elif isinstance(value, dict):
            found += _unknown(value, fields[key].default_factory, f"{prefix}{key}.")
    return found
