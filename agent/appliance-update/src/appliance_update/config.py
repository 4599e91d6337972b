"""The updater's configuration: /etc/appliance-update/config.toml."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from appliance_update.window import Window, WindowError

CONFIG_FILE = Path("/etc/appliance-update/config.toml")
SITE_FILE = Path("/var/lib/appliance-site/site.toml")
"""What a technician set for this site; of it the table `[window]` is taken."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, key and reason."""


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
class Snapshot:
    """Which databases are kept before another version boots: globs. Evidence is left alone whatever they match."""

    databases: tuple[str, ...] = (
        "/var/lib/compliance-agent/agent.db",
        "/var/lib/network-scanner/*.db",
        "/var/lib/local-portal/*.db",
    )


@dataclass(frozen=True)
class Watch:
    """When a version that was good is left again for the one before. Empty values leave a sign out."""

    hours: float = 72.0
    """Hours without check-in, update check and rehearsal, while the network is fine."""
    looks: int = 4
    """Looks (one every quarter of an hour) in a row at which a unit was failing. 0: units are not looked at."""
    units: tuple[str, ...] = ()
    """Units to look at; empty: those of [gate]."""
    checkin_file: str = "/var/lib/compliance-agent/last-checkin"


@dataclass(frozen=True)
class Fetching:
    """How releases are fetched."""

    bytes_per_second: float = 0.0
    """A cap on all that is fetched; 0 is none."""
    proxy: str = ""
    """`http://[user:password@]host:port`, for http and https; empty: what the environment's variables say."""


@dataclass(frozen=True)
class Generations:
    """A host that keeps generations of NixOS instead of slots: where new systems may come from. Sizes are MiB.

    `follow` is the flake reference that is looked at whenever the timer comes; orders may name the others of `flakes`
    word for word, or a store path that one of `trusted_keys` has signed. An empty list allows nothing of its kind.
    """

    enable: bool = False
    follow: str = ""
    flakes: tuple[str, ...] = ()
    trusted_keys: tuple[str, ...] = ()
    substituters: tuple[str, ...] = ()
    """Where Nix fetches from; empty: what nix.conf says."""
    profile: str = "/nix/var/nix/profiles/system"
    roots: str = "/nix/var/nix/gcroots/appliance-update"
    boot: str = "/boot"
    esp_free_mib: int = 160
    """Room that a kernel and an initrd take on the ESP."""
    store_free_mib: int = 2048


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
    snapshot: Snapshot = field(default_factory=Snapshot)
    watch: Watch = field(default_factory=Watch)
    transfer: Fetching = field(default_factory=Fetching)
    generations: Generations = field(default_factory=Generations)
    paths: Paths = field(default_factory=Paths)


def load(path: Path = CONFIG_FILE, site: Path = SITE_FILE) -> tuple[Config, list[str]]:
    """The configuration and warnings (unknown keys). A missing file is all defaults. Raises `ConfigError`.

    The site's own window goes before the file's; a site file that cannot be used is a warning.
    """
    config, warnings = _load(path)
    try:
        data = msgspec.toml.decode(site.read_bytes())
        window = msgspec.convert({**dataclasses.asdict(config.window), **data.get("window", {})}, Window)
        window.check()
    except FileNotFoundError:
        return config, warnings
    except (OSError, msgspec.MsgspecError, WindowError, ValueError, TypeError, RecursionError) as error:
        return config, [*warnings, f"{site}: {error}; the site's settings are ignored"]
    return dataclasses.replace(config, window=window), warnings


def _load(path: Path) -> tuple[Config, list[str]]:
    try:
        data = msgspec.toml.decode(path.read_bytes())
        config = msgspec.convert(data, Config)
    except FileNotFoundError:
        return Config(), [f"{path} is missing; defaults apply, and no repository is polled"]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        config.window.check()
    except WindowError as error:
        raise ConfigError(f"{path}: {error}") from error
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
