"""A site's configuration: what a technician writes down once, and the files the appliance reads."""

from __future__ import annotations

import dataclasses
import ipaddress
import tomllib
import zoneinfo
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from appliance_flash.errors import Unusable

ENROLMENT, SITE, NETWORK, UNATTENDED = "enrolment.toml", "site.toml", "site.network", "unattended"
MAX_FILE = 64 << 10
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LONGEST_POSTPONEMENT = 366


@dataclass(frozen=True)
class Central:
    """Where Central Command is. `ca_file` is a PEM file beside the site file; empty takes the public authorities."""

    url: str = ""
    ca_file: str = ""


@dataclass(frozen=True)
class Network:
    """A fixed address. Without `address` the appliance asks by DHCP."""

    address: str = ""
    gateway: str = ""
    dns: tuple[str, ...] = ()
    ntp: tuple[str, ...] = ()


@dataclass(frozen=True)
class Window:
    """When the appliance may restart into a new version: HH:MM in `time_zone` (IANA name).

    `days` are mon … sun on which it begins, none: every day. `maximum_postponement_days` is how long an update waits
    for it at most (0 to 366), None: as the image says.
    """

    start: str = ""
    end: str = ""
    time_zone: str = "UTC"
    days: tuple[str, ...] = ()
    maximum_postponement_days: float | None = None


@dataclass(frozen=True)
class Site:
    """The whole file."""

    central: Central = field(default_factory=Central)
    network: Network = field(default_factory=Network)
    window: Window = field(default_factory=Window)
    ca: str = ""
    """The text of `central.ca_file`; not a key of the file."""


def load(path: Path) -> Site:
    """Read and check a site file. Raises `Unusable`, which names the file and the key."""
    try:
        raw = path.read_bytes()
        data = tomllib.loads(raw[:MAX_FILE].decode())
        site = msgspec.convert(data, Site)
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror or error}") from error
    except (msgspec.ValidationError, ValueError) as error:
        raise Unusable(f"{path}: {error}") from error
    models = {"central": Central, "network": Network, "window": Window}
    known = {name: {item.name for item in dataclasses.fields(model)} for name, model in models.items()}
    for table, values in data.items():
        for key in values if table in known else [""]:
            if table not in known or key not in known[table]:
                raise Unusable(f"{path}: {f'{table}.{key}'.rstrip('.')} is not known. docs/flashing.md names the keys.")
    _check(site, path)
    return _with_authority(site, path)


def _check(site: Site, path: Path) -> None:
    parts = urlsplit(site.central.url)
    if site.central.url and (parts.scheme != "https" or not parts.hostname):
        raise Unusable(f"{path}: central.url must be an https:// address, not {site.central.url!r}")
    network, window = site.network, site.window
    try:
        if network.address:
            ipaddress.ip_interface(network.address)
            if "/" not in network.address:
                raise Unusable(f"{path}: network.address needs its prefix, as 192.0.2.7/24")
        for address in (network.gateway, *network.dns) if network.gateway else network.dns:
            ipaddress.ip_address(address)
        zoneinfo.ZoneInfo(window.time_zone)
    except (ValueError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise Unusable(f"{path}: {error}") from error
    if any(character.isspace() or not character.isprintable() for name in network.ntp for character in name):
        raise Unusable(f"{path}: network.ntp holds names or addresses of time servers")
    for key, value in (("start", window.start), ("end", window.end)):
        hour, _, minute = value.partition(":")
        good = len(value) == 5 and hour.isdecimal() and minute.isdecimal() and int(hour) < 24 and int(minute) < 60
        if bool(window.start or window.end) and not good:
            raise Unusable(f"{path}: window.{key} is a time as 02:00, not {value!r}")
    if not set(window.days) <= set(DAYS):
        raise Unusable(f"{path}: window.days are of {', '.join(DAYS)}, not {', '.join(window.days)}")
    if not 0 <= (window.maximum_postponement_days or 0) <= LONGEST_POSTPONEMENT:
        raise Unusable(f"{path}: window.maximum_postponement_days is a number from 0 to {LONGEST_POSTPONEMENT}")


def _with_authority(site: Site, path: Path) -> Site:
    if not site.central.ca_file:
        return site
    file = path.parent / site.central.ca_file
    try:
        text = file.read_bytes()[:MAX_FILE].decode()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{path}: central.ca_file: {file}: {error}") from error
    if "-----BEGIN CERTIFICATE-----" not in text or "PRIVATE KEY" in text or "'''" in text:
        raise Unusable(f"{file} is not a PEM file of certificates and nothing else.")
    return dataclasses.replace(site, ca=text)


def files(site: Site, code: str) -> dict[str, str]:
    """File name → text for the medium's folder. Raises `Unusable`."""
    made = {}
    if code:
        if not site.central.url:
            raise Unusable("an enrolment code needs central.url in the site file: a code is good at one server only.")
        if not code.isascii() or not all(character.isalnum() or character in "-_" for character in code):
            raise Unusable("this is no enrolment code. Central Command shows it: letters, digits and dashes.")
        made[ENROLMENT] = _enrolment(site, code)
    if site.network.address or site.network.dns or site.network.ntp:
        made[NETWORK] = _network(site.network)
    if window := _window(site.window):
        made[SITE] = window
    return made


def _window(window: Window) -> str:
    if window == Window(time_zone=window.time_zone):
        return ""
    lines = ["[window]", f'time_zone = "{window.time_zone}"']
    if window.start:
        lines += [f'start = "{window.start}"', f'end = "{window.end}"']
    if window.days:
        days = ", ".join(f'"{day}"' for day in window.days)
        lines.append(f"days = [{days}]")
    if window.maximum_postponement_days is not None:
        lines.append(f"maximum_postponement_days = {window.maximum_postponement_days:g}")
    return "\n".join(lines) + "\n"


def _enrolment(site: Site, code: str) -> str:
    text = f'url = "{site.central.url}"\ncode = "{code}"\n'
    return text + (f"ca = '''\n{site.ca.strip()}\n'''\n" if site.ca else "")


def _network(network: Network) -> str:
    lines = ["[Match]", "Kind=!*", "Type=ether", "", "[Network]", "LLMNR=no", "MulticastDNS=no"]
    lines += [f"Address={network.address}"] if network.address else ["DHCP=yes"]
    lines += [f"Gateway={network.gateway}"] if network.gateway else []
    lines += [f"DNS={server}" for server in network.dns] + [f"NTP={server}" for server in network.ntp]
    return "\n".join(lines) + "\n"
