"""From a received frame to observations: which protocol it is, whom it speaks of, and what it says."""

from __future__ import annotations

import re

from network_scanner.addresses import is_device_ipv4, is_device_ipv6, is_group
from network_scanner.facts import Fact, FactKind, Observation, fact
from network_scanner.packets import PacketError, dhcp, dns, ndp, netbios, ssdp, wsd
from network_scanner.packets.ethernet import ARP, ICMPV6, Datagram, Frame, parse_arp, parse_datagram, parse_frame
from network_scanner.text import clean

_SERVICE = re.compile(r"(?:^|\.)(_[a-z0-9-]{1,15}\._(?:tcp|udp))\.local$")
_MODEL_KEYS = ("ty", "md", "model", "am", "product", "usb_mdl")
_ID_KEYS = ("uuid", "deviceid", "id", "serialnumber", "pk")
MAX_FACTS = 40
"""Facts kept of one message."""


def interpret(raw: bytes, at: float) -> list[Observation]:
    """What a frame received at `at` (seconds since the epoch) says of devices; nothing when it cannot be read."""
    try:
        frame = parse_frame(raw)
        if is_group(frame.source):
            return []
        if frame.kind == ARP:
            return _arp(frame, at)
        datagram = parse_datagram(frame)
        if datagram.protocol == ICMPV6:
            return _icmpv6(frame, datagram, at)
        return _datagram(frame, datagram, at)
    except PacketError:
        return []


def _arp(frame: Frame, at: float) -> list[Observation]:
    arp = parse_arp(frame.payload)
    # A probe for duplicate addresses (RFC 5227) has no sender address: it shows the device, not a binding.
    ip = arp.sender_ip if is_device_ipv4(arp.sender_ip) else ""
    if is_group(arp.sender_mac):
        return []
    return [Observation(at, arp.sender_mac, ip, (), "arp", bound=bool(ip))]


def _icmpv6(frame: Frame, datagram: Datagram, at: float) -> list[Observation]:
    neighbour = ndp.parse_icmpv6(datagram.source_ip, datagram.payload)
    mac = neighbour.mac or frame.source
    if is_group(mac):
        return []
    address = neighbour.address if is_device_ipv6(neighbour.address) else ""
    facts = (Fact(FactKind.ROLE, "ipv6-router"),) if neighbour.kind == ndp.ROUTER_ADVERTISEMENT else ()
    return [Observation(at, mac, address, facts, "nd", bound=bool(address))]


def _datagram(frame: Frame, datagram: Datagram, at: float) -> list[Observation]:
    ports = {datagram.source_port, datagram.target_port}
    if ports & {67, 68}:
        return _dhcp(frame, datagram, at)
    if 5353 in ports:
        return _mdns(frame, datagram, at)
    facts: tuple[Fact, ...] = ()
    source = ""
    if 1900 in ports:
        facts, source = _ssdp(datagram.payload), "ssdp"
    elif 3702 in ports:
        facts, source = _wsd(datagram.payload), "wsd"
    elif 5355 in ports:
        facts, source = _llmnr(datagram), "llmnr"
    elif datagram.source_port == 137:
        facts, source = _netbios(datagram.payload), "netbios"
    if not facts:
        return []
    return [Observation(at, frame.source, _sender(datagram), facts[:MAX_FACTS], source)]


def _sender(datagram: Datagram) -> str:
    ip = datagram.source_ip
    return ip if is_device_ipv4(ip) or is_device_ipv6(ip) else ""


def _dhcp(frame: Frame, datagram: Datagram, at: float) -> list[Observation]:
    message = dhcp.parse(datagram.payload)
    if message.from_server:
        # A relay carries the server's words too, hence the sender of this datagram and not option 54.
        role = (Fact(FactKind.ROLE, "dhcp-server"),)
        return [Observation(at, frame.source, _sender(datagram), role, "dhcp")] if _sender(datagram) else []
    if is_group(message.client_mac):
        return []
    facts = (
        *fact(FactKind.DHCP_NAME, message.hostname), *fact(FactKind.DHCP_VENDOR, message.vendor_class),
        *fact(FactKind.DHCP_PARAMETERS, message.parameters), *fact(FactKind.DHCP_CLIENT_ID, message.client_id),
    )
    # What a client asks for is not yet its address; what it renews (ciaddr) is.
    renewing = is_device_ipv4(datagram.source_ip)
    ip = datagram.source_ip if renewing and frame.source == message.client_mac else ""
    return [Observation(at, message.client_mac, ip, facts, "dhcp", bound=bool(ip))]


def _mdns(frame: Frame, datagram: Datagram, at: float) -> list[Observation]:
    message = dns.parse(datagram.payload)
    if not message.response:
        return []
    facts: dict[Fact, None] = {}
    addresses: set[str] = set()
    for record in message.records:
        facts.update(dict.fromkeys(_mdns_record(record)))
        if record.kind in (dns.A, dns.AAAA) and record.target:
            addresses.add(record.target)
    if not facts:
        return []
    sender = _sender(datagram)
    found = tuple(facts)[:MAX_FACTS]
    if addresses and sender and sender not in addresses and all(":" not in address for address in addresses):
        # A reflector speaks for somebody on the other side of it: believe the address records, not the frame.
        return [Observation(at, "", ip, found, "mdns") for ip in sorted(addresses)[:4] if is_device_ipv4(ip)]
    return [Observation(at, frame.source, sender, found, "mdns")]


def _mdns_record(record: dns.Record) -> list[Fact]:
    facts: list[Fact] = []
    if record.kind in (dns.A, dns.AAAA) and record.name.endswith(".local"):
        facts += fact(FactKind.MDNS_NAME, record.name.removesuffix(".local"), 63)
    service = _SERVICE.search(record.name.lower())
    if record.kind == dns.PTR and record.name.lower() == "_services._dns-sd._udp.local":
        listed = _SERVICE.search(record.target.lower())
        facts += fact(FactKind.MDNS_SERVICE, listed.group(1)) if listed else ()
    elif service and record.kind in (dns.PTR, dns.SRV, dns.TXT):
        facts += fact(FactKind.MDNS_SERVICE, service.group(1))
        instance = record.target if record.kind == dns.PTR else record.name
        cut = instance.lower().rfind("." + service.group(1))
        if cut > 0:
            facts += fact(FactKind.MDNS_INSTANCE, instance[:cut].replace("\u2024", "."), 63)
    for text in record.texts:
        key, _, value = text.partition("=")
        if key.lower() in _MODEL_KEYS and len(value) > 1:
            facts += fact(FactKind.MDNS_MODEL, value)
        elif key.lower() in _ID_KEYS and len(value) >= 8:
            facts += fact(FactKind.MDNS_ID, value.lower())
    return facts


def _ssdp(payload: bytes) -> tuple[Fact, ...]:
    said = ssdp.parse(payload)
    # A UUID alone (`uuid:…` as type) is the identity, not a type.
    kind = "" if said.kind.lower().startswith("uuid:") else said.kind
    return (
        *fact(FactKind.SSDP_SERVER, said.server), *fact(FactKind.SSDP_TYPE, kind), *fact(FactKind.SSDP_ID, said.uuid),
    )


def _wsd(payload: bytes) -> tuple[Fact, ...]:
    match = wsd.parse(payload)
    return (
        *fact(FactKind.WSD_ID, match.uuid),
        *(Fact(FactKind.WSD_TYPE, kind) for kind in match.types),
        *(Fact(FactKind.WSD_SCOPE, scope) for scope in match.scopes[:4]),
    )


def _llmnr(datagram: Datagram) -> tuple[Fact, ...]:
    message = dns.parse(datagram.payload)
    if not message.response or datagram.source_port != 5355:
        return ()
    own = [record.name for record in message.records if record.target == datagram.source_ip]
    return fact(FactKind.LLMNR_NAME, own[0], 63) if own else ()


def _netbios(payload: bytes) -> tuple[Fact, ...]:
    try:
        name = netbios.parse_registration(payload)
    except PacketError:
        name = netbios.parse_status(payload)
    return fact(FactKind.NETBIOS_NAME, clean(name, 15))
