"""SNMP v2c (RFC 1901, 3416), one question only: the system's description."""

from __future__ import annotations

from network_scanner.packets import PacketError
from network_scanner.packets.ber import element
from network_scanner.text import BANNER_LIMIT, clean

_SYS_DESCR = bytes.fromhex("2b06010201010100")


def description_request(community: str) -> bytes:
    """A GetRequest for sysDescr.0."""
    binding = _tlv(0x30, _tlv(0x06, _SYS_DESCR) + b"\x05\0")
    pdu = _tlv(0xA0, b"\x02\x04\x4e\x53\x43\x4e" + b"\x02\x01\0" * 2 + _tlv(0x30, binding))
    return _tlv(0x30, b"\x02\x01\x01" + _tlv(0x04, community.encode()[:60]) + pdu)


def parse_description(raw: bytes) -> str:
    """The description in a response. Raises `PacketError`."""
    _, message, _ = element(raw, 0)
    at = element(message, 0)[2]
    at = element(message, at)[2]
    tag, pdu, _ = element(message, at)
    if tag != 0xA2:
        raise PacketError("not an SNMP response")
    at = 0
    for _ in range(3):
        at = element(pdu, at)[2]
    _, bindings, _ = element(pdu, at)
    _, binding, _ = element(bindings, 0)
    _, oid, at = element(binding, 0)
    tag, value, _ = element(binding, at)
    if oid != _SYS_DESCR or tag != 0x04:
        raise PacketError("no system description in the response")
    return clean(value, BANNER_LIMIT)


def _tlv(tag: int, content: bytes) -> bytes:
    if len(content) > 127:
        return bytes([tag, 0x81, len(content)]) + content
    return bytes([tag, len(content)]) + content
