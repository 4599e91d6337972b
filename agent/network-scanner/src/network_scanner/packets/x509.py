"""As much of a certificate (RFC 5280) as identifies a device: the subject's common name and the key's fingerprint.

A reader of forty lines, because the certificate is evidence here and never trusted, and because loading a whole
library for it would cost a third of the memory budget.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from network_scanner.packets import PacketError
from network_scanner.packets.ber import element
from network_scanner.text import clean

_COMMON_NAME = bytes.fromhex("550403")
_SEQUENCE, _OID, _VERSION = 0x30, 0x06, 0xA0
_WIDE = {0x1E: "utf-16-be", 0x1C: "utf-32-be"}


@dataclass(frozen=True, slots=True)
class Certificate:
    """`key` is the SHA-256 of the SubjectPublicKeyInfo in hexadecimal; it survives a renewal of the certificate."""

    name: str
    key: str


def parse(raw: bytes) -> Certificate:
    """Read a DER certificate. Raises `PacketError` when its outer shape is not one."""
    _, certificate, _ = element(raw, 0)
    _, tbs, _ = element(certificate, 0)
    at = 0
    if tbs[:1] == bytes([_VERSION]):
        at = element(tbs, 0)[2]
    for _ in range(4):  # serial number, signature algorithm, issuer, validity
        at = element(tbs, at)[2]
    kind, subject, key_at = element(tbs, at)
    key_kind, _, end = element(tbs, key_at)
    if kind != _SEQUENCE or key_kind != _SEQUENCE:
        raise PacketError("not a certificate")
    return Certificate(_common_name(subject), hashlib.sha256(tbs[key_at:end]).hexdigest())


def _common_name(subject: bytes) -> str:
    at = 0
    while at < len(subject):
        _, group, at = element(subject, at)
        inner = 0
        while inner < len(group):
            _, pair, inner = element(group, inner)
            kind, oid, value_at = element(pair, 0)
            if kind == _OID and oid == _COMMON_NAME:
                tag, value, _ = element(pair, value_at)
                return clean(value.decode(_WIDE[tag], "replace") if tag in _WIDE else value)
    return ""
