"""Every parser: what it reads, and that nothing a stranger sends makes it do anything but read or refuse."""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from zeroconf import DNSIncoming, DNSOutgoing, DNSPointer, DNSService
from zeroconf.const import _CLASS_IN, _FLAGS_QR_RESPONSE, _TYPE_PTR, _TYPE_SRV

from network_scanner.facts import FactKind
from network_scanner.interpret import interpret
from network_scanner.packets import PacketError, dhcp, dns, http, ndp, netbios, snmp, ssdp, ssh, wsd, x509
from network_scanner.packets.ethernet import arp_request, parse_arp, parse_datagram, parse_frame
from network_scanner.text import clean

MAC, OTHER = "00:1b:21:aa:bb:cc", "98:e7:43:00:00:01"
HOSTILE = (
    "<script>alert(1)</script>", "\x1b[31mred\x1b]0;title\x07", "a\0b", "x" * 4096, "=cmd|' /C calc'!A0",
    "'; DROP TABLE devices; --", "\u202egnp.exe", "\ud800", "🏥" * 300, "%n%s",
)


def udp(payload: bytes, source: tuple[str, int], target: tuple[str, int], mac: str = OTHER) -> bytes:
    """A UDP datagram as a frame."""
    body = struct.pack("!4H", source[1], target[1], 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 17, 0)
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    return bytes.fromhex("01005e0000fb") + bytes.fromhex(mac.replace(":", "")) + b"\x08\x00" + header + addresses + body


def dhcp_message(options: dict[int, bytes], mac: str = OTHER, kind: int = 3) -> bytes:
    """A DHCP message of a client."""
    fixed = struct.pack("!4BIHH4s4s4s4s", 1, 1, 6, 0, 7, 0, 0, bytes(4), bytes(4), bytes(4), bytes(4))
    body = fixed + bytes.fromhex(mac.replace(":", "")) + bytes(10 + 64 + 128) + dhcp.COOKIE
    everything = {53: bytes([kind]), **options}
    return body + b"".join(bytes([code, len(value)]) + value for code, value in everything.items()) + b"\xff"


def mdns_response(instance: str, kind: str = "_ipp._tcp.local.", host: str = "printer.local.") -> bytes:
    """An announcement, built by another implementation (zeroconf)."""
    out = DNSOutgoing(_FLAGS_QR_RESPONSE)
    out.add_answer_at_time(DNSPointer(kind, _TYPE_PTR, _CLASS_IN, 120, f"{instance}.{kind}"), 0)
    out.add_answer_at_time(DNSService(f"{instance}.{kind}", _TYPE_SRV, _CLASS_IN, 120, 0, 0, 631, host), 0)
    return out.packets()[0]


# --- what they read ---------------------------------------------------------------------------------------------


def test_an_arp_request_we_build_is_read_back() -> None:
    frame = parse_frame(arp_request(MAC, "10.0.0.1", "10.0.0.9"))
    arp = parse_arp(frame.payload)
    assert frame.target == "ff:ff:ff:ff:ff:ff"
    assert (arp.sender_mac, arp.sender_ip, arp.target_ip) == (MAC, "10.0.0.1", "10.0.0.9")


def test_arp_is_read_behind_a_vlan_tag_an_llc_header_and_with_padding() -> None:
    plain = arp_request(MAC, "10.0.0.1", "10.0.0.9")
    tagged = plain[:12] + b"\x81\x00\x00\x05" + plain[12:]
    snap = plain[:12] + struct.pack("!H", 36) + b"\xaa\xaa\x03\0\0\0" + plain[12:]
    for raw in (plain + bytes(18), tagged, snap):
        assert parse_arp(parse_frame(raw).payload).sender_ip == "10.0.0.1"


def test_a_device_is_whoever_arp_names_not_whoever_sent_the_frame() -> None:
    raw = bytearray(arp_request(MAC, "10.0.0.1", "10.0.0.9"))
    raw[6:12] = bytes.fromhex("001122334455")
    assert [item.mac for item in interpret(bytes(raw), 1.0)] == [MAC]


def test_an_address_probe_shows_a_device_but_binds_no_address() -> None:
    seen = interpret(arp_request(MAC, "0.0.0.0", "10.0.0.9"), 1.0)[0]
    assert (seen.mac, seen.ip, seen.bound) == (MAC, "", False)


def test_dhcp_tells_name_vendor_class_fingerprint_and_client_id() -> None:
    raw = dhcp_message({12: b"FRONTDESK", 60: b"MSFT 5.0", 55: bytes([1, 3, 6, 15]), 61: b"\x00unique-id"})
    message = dhcp.parse(raw)
    assert (message.hostname, message.vendor_class, message.parameters) == ("FRONTDESK", "MSFT 5.0", "1,3,6,15")
    assert message.client_id == b"\x00unique-id".hex()


def test_a_client_id_that_only_repeats_the_mac_address_is_no_evidence() -> None:
    assert dhcp.parse(dhcp_message({61: b"\x01" + bytes.fromhex("98e743000001")})).client_id == ""


def test_mdns_of_another_implementation_is_read() -> None:
    frame = udp(mdns_response("HP 4.1 [AB]"), ("10.0.0.7", 5353), ("224.0.0.251", 5353))
    facts = {(fact.kind, fact.value) for item in interpret(frame, 1.0) for fact in item.facts}
    assert (FactKind.MDNS_SERVICE, "_ipp._tcp") in facts
    assert (FactKind.MDNS_INSTANCE, "HP 4.1 [AB]") in facts


@given(st.lists(st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_names_come_out_as_zeroconf_reads_them(labels: list[str]) -> None:
    host = ".".join(labels) + ".local."
    raw = mdns_response("x", host=host)
    theirs = [record.server for record in DNSIncoming(raw).answers() if isinstance(record, DNSService)]
    ours = [record.target + "." for record in dns.parse(raw).records if record.kind == dns.SRV]
    assert ours == theirs == [host]


def test_a_reflected_mdns_answer_belongs_to_the_address_it_names_not_to_the_reflector() -> None:
    answer = dns.encode_name("nurse.local") + struct.pack("!HHIH", dns.A, 1, 120, 4) + socket.inet_aton("10.9.9.9")
    raw = struct.pack("!6H", 0, 0x8400, 0, 1, 0, 0) + answer
    seen = interpret(udp(raw, ("10.0.0.1", 5353), ("224.0.0.251", 5353)), 1.0)
    assert [(item.mac, item.ip) for item in seen] == [("", "10.9.9.9")]


def test_ssdp_tells_server_type_and_identity_and_a_search_tells_nothing() -> None:
    raw = (b"NOTIFY * HTTP/1.1\r\nNT: urn:schemas-upnp-org:device:Printer:1\r\nServer: Linux UPnP/1.0 Brother\r\n"
           b"USN: uuid:E3248000-80CE::urn\r\nNTS: ssdp:alive\r\n\r\n")
    said = ssdp.parse(raw)
    assert (said.kind, said.uuid) == ("urn:schemas-upnp-org:device:Printer:1", "e3248000-80ce")
    with pytest.raises(PacketError):
        ssdp.parse(ssdp.SEARCH)


def test_ws_discovery_tells_types_and_identity_of_the_device_not_of_the_sender() -> None:
    raw = (b'<s:Envelope xmlns:s="s" xmlns:d="d" xmlns:a="a" xmlns:p="p"><s:Header><a:ReplyTo><a:Address>urn:uuid:1'
           b"</a:Address></a:ReplyTo></s:Header><s:Body><d:Hello><a:EndpointReference><a:Address>urn:uuid:2f1b-77"
           b"</a:Address></a:EndpointReference><d:Types>p:PrintDeviceType p:MedicalDevice</d:Types></d:Hello></s:Body>"
           b"</s:Envelope>")
    match = wsd.parse(raw)
    assert (match.types, match.uuid) == (("printdevicetype", "medicaldevice"), "2f1b-77")


def test_our_own_probe_is_well_formed_and_announces_nothing() -> None:
    with pytest.raises(PacketError, match="no announcement"):
        wsd.parse(wsd.probe())


def test_neighbour_advertisement_names_the_target_and_its_card() -> None:
    address = socket.inet_pton(socket.AF_INET6, "fe80::1234")
    raw = bytes([136, 0, 0, 0, 0x80, 0, 0, 0]) + address + b"\x02\x01" + bytes.fromhex("98e743000001")
    neighbour = ndp.parse_icmpv6("fe80::1234", raw)
    assert (neighbour.address, neighbour.mac, neighbour.router) == ("fe80::1234", OTHER, True)


def test_our_neighbour_solicitation_has_a_valid_checksum() -> None:
    frame = ndp.solicitation(MAC, "fe80::1", "fe80::2:3")
    packet = frame[14:]
    pseudo = packet[8:40] + struct.pack("!IxxxB", len(packet) - 40, 58)
    assert ndp.checksum(pseudo + packet[40:]) == 0


def test_http_gives_server_and_title_without_entities_or_markup() -> None:
    page = b"HTTP/1.1 401 No\r\nServer: Apache\r\n\r\n<html><TITLE>\n AXIS &amp; Co </TITLE>"
    assert http.parse(page) == http.HttpAnswer(401, "Apache", "AXIS & Co", "")


def test_netbios_status_gives_the_machine_name_not_its_group() -> None:
    names = b"WORKGROUP      \0\x80\0" + b"RECEPTION-PC1  \0\x04\0"
    data = bytes([2]) + names
    raw = struct.pack("!6H", 1, 0x8400, 0, 1, 0, 0) + b"\0" + struct.pack("!HHIH", 33, 1, 0, len(data)) + data
    assert netbios.parse_status(raw) == "RECEPTION-PC1"


def test_snmp_description_survives_the_round_trip() -> None:
    request = snmp.description_request("public")
    with pytest.raises(PacketError, match="not an SNMP response"):
        snmp.parse_description(request)
    response = request.replace(b"\xa0", b"\xa2", 1).replace(b"\x05\0", b"\x04\x0bCisco IOS X")
    fixed = bytearray(response)
    for at in range(len(fixed) - 1):  # every enclosing length grew by eleven
        if fixed[at] in (0x30, 0xA2):
            fixed[at + 1] += 11
    assert snmp.parse_description(bytes(fixed)) == "Cisco IOS X"


def test_a_certificate_yields_common_name_and_a_key_that_survives_renewal() -> None:
    first, second = certificate(1), certificate(2)
    assert first != second
    assert x509.parse(first) == x509.parse(second)
    assert x509.parse(first).name == "printer <b>"


def certificate(serial: int) -> bytes:
    """A certificate by `cryptography`; the same key and name for every serial number."""
    import datetime

    from cryptography import x509 as real
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.derive_private_key(7, ec.SECP256R1())
    name = real.Name([
        real.NameAttribute(NameOID.ORGANIZATION_NAME, "Clinic"), real.NameAttribute(NameOID.COMMON_NAME, "printer <b>"),
    ])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = real.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = builder.serial_number(serial).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=9))
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


# --- what they survive ------------------------------------------------------------------------------------------

PARSERS: list[Callable[[bytes], object]] = [
    parse_frame, parse_arp, dhcp.parse, dns.parse, netbios.parse_status, netbios.parse_registration, ssdp.parse,
    wsd.parse, http.parse, ssh.parse_banner, ssh.host_key, x509.parse, snmp.parse_description,
    lambda raw: ndp.parse_icmpv6("fe80::1", raw), lambda raw: parse_datagram(parse_frame(raw)),
]
SAMPLES = [
    arp_request(MAC, "10.0.0.1", "10.0.0.9"), dhcp_message({12: b"host", 55: b"\x01\x03", 81: b"\0\0\0abc"}),
    mdns_response("x"), ssdp.SEARCH, wsd.probe(), ssh.key_exchange(), snmp.description_request("public"),
    netbios.STATUS_QUERY, b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n<title>y</title>",
    udp(mdns_response("x"), ("10.0.0.7", 5353), ("224.0.0.251", 5353)), certificate(1),
    ndp.solicitation(MAC, "fe80::1", "fe80::2"), b"NOTIFY * HTTP/1.1\r\nNT: a\r\nUSN: uuid:12345\r\n\r\n",
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real message cut short, with bytes changed, or with something grown at its end."""
    raw = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 6))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    raw = raw[: draw(st.integers(0, len(raw)))]
    return bytes(raw) + draw(st.binary(max_size=40)) * draw(st.sampled_from([0, 1, 1, 300]))


@given(st.one_of(damaged(), st.binary(max_size=600)))
@example(b"")
@settings(max_examples=400, deadline=None)
def test_a_parser_reads_or_refuses_and_does_nothing_else(raw: bytes) -> None:
    for parser in PARSERS:
        try:
            parser(raw)
        except PacketError:
            continue


@given(st.one_of(damaged(), st.binary(max_size=600)))
@settings(max_examples=200, deadline=None)
def test_no_frame_can_hurt_the_listener_and_every_fact_is_clean(raw: bytes) -> None:
    for frame in (raw, udp(raw, ("10.0.0.7", 5353), ("224.0.0.251", 5353)),
                  udp(raw, ("10.0.0.7", 1900), ("10.0.0.1", 9)),
                  udp(raw, ("10.0.0.7", 3702), ("10.0.0.1", 9)), udp(raw, ("0.0.0.0", 68), ("255.255.255.255", 67)),
                  udp(raw, ("10.0.0.7", 137), ("10.0.0.255", 137)), udp(raw, ("10.0.0.7", 5355), ("10.0.0.1", 9))):
        for seen in interpret(frame, 1.0):
            assert len(seen.facts) <= 40
            for fact in seen.facts:
                assert fact.value == clean(fact.value, 240)
                assert 0 < len(fact.value) <= 240


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_becomes_short_printable_text_on_every_way_in(name: str) -> None:
    raw = name.encode("utf-8", "surrogatepass")
    ways = [
        udp(dhcp_message({12: raw[:255], 60: raw[:255]}), ("0.0.0.0", 68), ("255.255.255.255", 67)),
        udp(b"NOTIFY * HTTP/1.1\r\nNT: a\r\nSERVER: " + raw + b"\r\nUSN: uuid:" + raw + b"\r\n\r\n",
            ("10.0.0.7", 1900), ("10.0.0.1", 9)),
    ]
    for frame in ways:
        for seen in interpret(frame, 1.0):
            for fact in seen.facts:
                assert fact.value.isprintable()
                assert len(fact.value) <= 240
    assert clean(raw).isprintable()
    assert len(clean(raw)) <= 120
    assert "\x1b" not in http.parse(b"HTTP/1.0 200 OK\r\n\r\n<title>" + raw.replace(b"<", b"") + b"</title>").title


def test_a_compression_loop_ends_and_a_pointer_forwards_is_refused() -> None:
    header = struct.pack("!6H", 0, 0x8400, 1, 0, 0, 0)
    for name in (b"\xc0\x0c", b"\x01a\xc0\x0c", b"\xc0\x20" + bytes(40), b"\xff\xff"):
        with pytest.raises(PacketError):
            dns.parse(header + name + b"\0\x0c\0\x01")


def test_a_message_made_of_pointers_costs_bounded_work() -> None:
    chain = b"\x01a\0" + b"".join(struct.pack("!H", 0xC000 | 12 + max(0, 2 * n)) for n in range(4000))
    raw = struct.pack("!6H", 0, 0x8400, 0, 65535, 0, 0) + chain
    assert len(dns.parse(raw).records) <= dns.MAX_RECORDS


def test_an_xml_bomb_is_refused_before_it_expands() -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY x "' + b"y" * 100 + b'"><!ENTITY z "' + b"&x;" * 100 + b'">]><Hello>&z;&z;</Hello>'
    with pytest.raises(PacketError, match="document type"):
        wsd.parse(bomb)
    with pytest.raises(PacketError, match="too many"):
        wsd.parse(b"<a>" * 100)


def test_a_nine_kilobyte_mdns_message_is_read_and_bounded() -> None:
    answers = b"".join(
        dns.encode_name(f"h{n}._http._tcp.local") + struct.pack("!HHIH", dns.TXT, 1, 120, 20) + b"\x13k=" + b"v" * 17
        for n in range(180)
    )
    raw = struct.pack("!6H", 0, 0x8400, 0, 180, 0, 0) + answers
    assert len(raw) > 7000
    seen = interpret(udp(raw, ("10.0.0.7", 5353), ("224.0.0.251", 5353)), 1.0)
    assert len(seen) == 1
    assert len(seen[0].facts) == 40


def test_zlib_is_not_involved() -> None:
    """Nothing on the way in decompresses, so no compressed bomb can be sent."""
    bomb = zlib.compress(b"0" * 10_000_000)
    assert http.parse(b"HTTP/1.0 200 OK\r\nContent-Encoding: deflate\r\n\r\n" + bomb).title == ""
