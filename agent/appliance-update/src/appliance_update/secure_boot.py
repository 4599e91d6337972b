"""Whether the firmware will start a file: Secure Boot's keys in its variables, and the signature in the file.

A kernel image that the firmware refuses takes the boot loader with it: systemd-boot ends, the firmware looks for
something else, finds nothing, and stands. Nobody is there to press reset until the tries are spent, so it must not get
that far.
Sources: UEFI 2.10, 32.4.1 (signature lists) and 3.3 (SecureBoot); Windows Authenticode Portable Executable Signature
Format (hash of the image); PE format, the attribute certificate table.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import pkcs7

from appliance_update.host import Host
from appliance_update.pe import Headers, headers

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
DATABASE = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
_PKCS_SIGNED_DATA = 2
_DIGESTS = ("sha256", "sha384", "sha512")
"""What firmware knows: UEFI demands SHA-256, newer ones have the others as well."""
_REMEDY = "sign it with the key that signed what runs (docs/secure-boot.md), and publish it as a higher version"


class SignatureError(ValueError):
    """The firmware would not start the file, or that cannot be told; the message says why and what to do."""


def enforced(host: Host) -> bool:
    """Whether the firmware refuses what is not signed."""
    return _variable(host, "SecureBoot", GLOBAL) == b"\1"


def check(host: Host, path: Path) -> None:
    """Where Secure Boot is on, the file must be signed, as it is, by a key the firmware knows.

    Raises `SignatureError`.
    """
    try:
        if not enforced(host):
            return
        signed = _Signed.read(path)
        trusted, revoked = (set(_certificates(host, name)) for name in ("db", "dbx"))
        if not trusted:
            raise ValueError("the firmware's db holds no certificate")
    except (OSError, ValueError, struct.error) as error:
        raise SignatureError(f"Whether the firmware starts {path.name} cannot be judged: {error}") from error
    if not signed.signatures:
        raise SignatureError(f"Secure Boot is on, and {path.name} is not signed: {_REMEDY}")
    if not any(_vouched(signature, signed.digests, trusted - revoked) for signature in signed.signatures):
        raise SignatureError(
            f"Secure Boot is on, and no key in this firmware's db vouches for {path.name} as it is: {_REMEDY}"
        )


def _vouched(signature: bytes, digests: tuple[bytes, ...], trusted: set[x509.Certificate]) -> bool:
    if not any(digest in signature for digest in digests):
        return False  # of another file, or this one was changed afterwards
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sbsign writes BER, which cryptography accepts with a warning
        try:
            found = pkcs7.load_der_pkcs7_certificates(signature)
        except ValueError:
            return False
    return any(one in trusted or any(_issued(one, by) for by in trusted) for one in found)


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _variable(host: Host, name: str, vendor: str) -> bytes:
    """The value; empty when it is not set."""
    try:
        return host.efi_variable(name, vendor)
    except FileNotFoundError:
        return b""


def _certificates(host: Host, name: str) -> Iterator[x509.Certificate]:
    raw, at = _variable(host, name, DATABASE), 0
    while at < len(raw):
        kind, length, header, size = struct.unpack_from("<16sIII", raw, at)
        if length < 28 + header or size < 16:
            raise ValueError(f"the firmware's {name} is damaged")
        if kind == _X509:
            for start in range(at + 28 + header, at + length, size):
                yield x509.load_der_x509_certificate(raw[start + 16 : start + size])
        at += length


@dataclass(frozen=True)
class _Signed:
    """What is signed of a PE file, and the signatures (PKCS #7) in it."""

    digests: tuple[bytes, ...]
    signatures: tuple[bytes, ...]

    @classmethod
    def read(cls, path: Path) -> _Signed:
        raw = memoryview(path.read_bytes())
        found = headers(raw)
        if struct.unpack_from("<H", raw, found.optional)[0] != 0x20B:
            raise ValueError("it is not a PE32+ file")
        entry = found.optional + 112 + 4 * 8
        at, size = struct.unpack_from("<II", raw, entry)
        if at + size > len(raw):
            raise ValueError("its certificate table goes beyond its end")
        hashes = [hashlib.new(name) for name in _DIGESTS]
        for part in _hashed(raw, found, entry, size):
            for one in hashes:
                one.update(part)
        return cls(tuple(one.digest() for one in hashes), tuple(_table(raw[at : at + size])))


def _hashed(raw: memoryview, found: Headers, entry: int, table: int) -> Iterator[memoryview]:
    """The parts that Authenticode hashes: all but the checksum, the table's entry and the table itself."""
    optional = found.optional
    end = struct.unpack_from("<I", raw, optional + 60)[0]
    yield raw[: optional + 64]
    yield raw[optional + 68 : entry]
    yield raw[entry + 8 : end]
    for section in sorted((one for one in found.sections if one.size), key=lambda one: one.offset):
        yield raw[section.offset : section.offset + section.size]
        end += section.size
    yield raw[end : len(raw) - table]


def _table(raw: memoryview) -> Iterator[bytes]:
    at = 0
    while at + 8 <= len(raw):
        length, _revision, kind = struct.unpack_from("<IHH", raw, at)
        if length < 8:
            raise ValueError("its certificate table is damaged")
        if kind == _PKCS_SIGNED_DATA:
            yield bytes(raw[at + 8 : at + length])
        at += -(-length // 8) * 8
