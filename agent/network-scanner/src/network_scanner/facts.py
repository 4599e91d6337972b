"""What was seen of a device, as small facts: the only thing the parsers make and the only thing the rules read."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from network_scanner.text import BANNER_LIMIT, clean


class FactKind(enum.StrEnum):
    """Where a fact comes from."""

    VENDOR = "vendor"
    RANDOMISED = "randomised"
    ROLE = "role"
    DHCP_CLIENT_ID = "dhcp-client-id"
    DHCP_VENDOR = "dhcp-vendor"
    DHCP_PARAMETERS = "dhcp-parameters"
    DHCP_NAME = "dhcp-name"
    MDNS_NAME = "mdns-name"
    MDNS_INSTANCE = "mdns-instance"
    MDNS_SERVICE = "mdns-service"
    MDNS_MODEL = "mdns-model"
    MDNS_ID = "mdns-id"
    SSDP_SERVER = "ssdp-server"
    SSDP_TYPE = "ssdp-type"
    SSDP_ID = "ssdp-id"
    WSD_TYPE = "wsd-type"
    WSD_ID = "wsd-id"
    WSD_SCOPE = "wsd-scope"
    NETBIOS_NAME = "netbios-name"
    LLMNR_NAME = "llmnr-name"
    DNS_NAME = "dns-name"
    PORT = "port"
    HTTP_SERVER = "http-server"
    HTTP_TITLE = "http-title"
    SSH_BANNER = "ssh-banner"
    SSH_KEY = "ssh-key"
    TLS_NAME = "tls-name"
    TLS_KEY = "tls-key"
    SNMP_DESCRIPTION = "snmp-description"


NAME_KINDS = (
    FactKind.DHCP_NAME, FactKind.MDNS_NAME, FactKind.NETBIOS_NAME, FactKind.DNS_NAME, FactKind.MDNS_INSTANCE,
    FactKind.LLMNR_NAME,
)
"""Facts that name a device, the most trusted first."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is known. `value` is always cleaned text of bounded length."""

    kind: FactKind
    value: str


def fact(kind: FactKind, value: str | bytes, limit: int = BANNER_LIMIT) -> tuple[Fact, ...]:
    """A fact from a stranger's text: cleaned and bounded, or nothing when nothing is left of it."""
    text = clean(value, limit)
    return (Fact(kind, text),) if text else ()


@dataclass(frozen=True, slots=True)
class Observation:
    """Facts seen together at one time (seconds since the epoch) of whoever had this MAC or this IP address.

    One of the two may be empty. `bound` says that the source itself tied the two together (ARP, ND, DHCP), which a
    datagram that came through a router or a reflector does not.
    """

    at: float
    mac: str = ""
    ip: str = ""
    facts: tuple[Fact, ...] = ()
    source: str = ""
    bound: bool = False
