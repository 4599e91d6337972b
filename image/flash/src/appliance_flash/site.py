"""A site's configuration: what a technician writes down once, and the files the appliance reads."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import ssl
import tomllib
import zoneinfo
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from appliance_flash.errors import Unusable

ENROLMENT, SITE, NETWORK, UNATTENDED = "enrolment.toml", "site.toml", "site.network", "unattended"
MAX_FILE = 64 << 10
"""Largest file read or made, in bytes; the appliance takes no larger one."""

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
        data = tomllib.loads(_read(path).decode())
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
    if site.network.address:
        # A netmask becomes the prefix that the network manager wants.
        address = str(ipaddress.ip_interface(site.network.address))
        site = dataclasses.replace(site, network=dataclasses.replace(site.network, address=address))
    return _with_authority(site, path)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(MAX_FILE + 1)
    if len(raw) > MAX_FILE:
        raise Unusable(f"{path} is larger than {MAX_FILE} bytes.")
    return raw


def _plain(text: str) -> bool:
    """Whether it can stand in any of the files: no line, quote or escape can begin in it."""
    return text.isprintable() and not re.search(r"[\s\"'\\]", text)


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and _plain(url)
    except ValueError:
        return False


def _check(site: Site, path: Path) -> None:
    if site.central.url and not _is_server(site.central.url):
        raise Unusable(f"{path}: central.url must be an https:// address, not {site.central.url!r}")
    network, window = site.network, site.window
    if network.gateway and not network.address:
        raise Unusable(f"{path}: network.gateway needs network.address: without it the gateway comes by DHCP.")
    for address in (network.address, network.gateway, *network.dns):
        if not _plain(address) or "%" in address:
            raise Unusable(f"{path}: {address!r} is not an address that can be written here.")
    try:
        if network.address:
            ipaddress.ip_interface(network.address)
            if "/" not in network.address:
                raise Unusable(f"{path}: network.address needs its prefix, as 192.0.2.7/24")
        for address in (network.gateway, *network.dns) if network.gateway else network.dns:
            ipaddress.ip_address(address)
        zoneinfo.ZoneInfo(window.time_zone)
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise Unusable(f"{path}: {error}") from error
    if not all(name and _plain(name) and "%" not in name for name in network.ntp):
        raise Unusable(f"{path}: network.ntp holds names or addresses of time servers")
    for key, value in (("start", window.start), ("end", window.end)):
        good = re.fullmatch("([01][0-9]|2[0-3]):[0-5][0-9]", value)
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
        text = _read(file).decode().replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{path}: central.ca_file: {file}: {error}") from error
    if "-----BEGIN CERTIFICATE-----" not in text or "PRIVATE KEY" in text or "'''" in text:
        raise Unusable(f"{file} is not a PEM file of certificates and nothing else.")
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise Unusable(f"{file} has no certificates that can be read: {error}") from error
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
        _same(ENROLMENT, made[ENROLMENT], {"url": site.central.url, "code": code} | _authority(site))
    if site.network.address or site.network.dns or site.network.ntp:
        made[NETWORK] = _network(site.network)
    if window := _window(site.window):
        made[SITE] = window
        _same(SITE, window, {"window": _said(site.window)})
    for name, text in made.items():
        if len(text.encode()) > MAX_FILE:
            raise Unusable(f"{name} would be larger than {MAX_FILE} bytes. The appliance takes no larger one.")
    return made


def _same(name: str, text: str, meant: dict[str, Any]) -> None:
    """What the appliance will read is what was meant."""
    try:
        good = tomllib.loads(text) == meant
    except tomllib.TOMLDecodeError:
        good = False
    if not good:
        raise Unusable(f"{name} would not say what the site file says. Look for unusual characters in it.")


def _authority(site: Site) -> dict[str, str]:
    return {"ca": f"{site.ca.strip()}\n"} if site.ca else {}


def _said(window: Window) -> dict[str, Any]:
    values = dataclasses.asdict(window) | {"days": list(window.days)}
    return {key: value for key, value in values.items() if value not in ("", [], None)}


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
        lines.append(f"maximum_postponement_days = {window.maximum_postponement_days}")
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
