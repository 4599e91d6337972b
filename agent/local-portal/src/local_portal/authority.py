"""The site's own certificate authority: made at first start, bound to this appliance, never leaves it.

Run as `python -m local_portal.authority` with an `Order` as JSON on standard input. The CA may only vouch for the
appliance's names, today's addresses and private address ranges (name constraints, RFC 5280 section 4.2.1.10), so that
a clinic that trusts it trusts it for nothing else.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from local_portal.certificates import (
    LEAF_DAYS,
    SANE_CLOCK,
    UNSET_CLOCK_DAYS,
    CertificateError,
    Certificates,
    Leaf,
    Order,
)
from local_portal.names import Names

CA_DAYS = 25 * 365
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LOCAL_RANGES = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8", "fc00::/7", "fe80::/10",
        "::1/128",
    )
)


def issue(order: Order) -> Leaf:
    """Make a new leaf, and the CA before it when there is none. Raises `CertificateError`."""
    files = Certificates(Path(order.directory))
    try:
        key, authority = _load(files) if files.ca_key.exists() else _make_authority(files, order.names)
        names = Names(
            tuple(name for name in order.names.dns if _permitted_name(authority, name)),
            tuple(address for address in order.names.addresses if _permitted_address(authority, address)),
        )
        leaf = _describe(order, names, authority)
        _write(files.chain, _make_leaf(leaf, key, authority), 0o600)
        _write(files.description, msgspec.json.encode(leaf), 0o644)
    except OSError as error:
        raise CertificateError(f"{files.directory}: {error}; is the state disk full or read-only?") from error
    return leaf


def _load(files: Certificates) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key(files.ca_key.read_bytes(), None)
        authority = x509.load_pem_x509_certificate(files.ca.read_bytes())
    except (ValueError, TypeError, FileNotFoundError) as error:
        # Never replaced silently: a new CA means new trust, which is for people to decide.
        raise CertificateError(
            f"{files.directory}: the CA is damaged ({error}); move ca.key and ca.crt away and restart for a new one"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{files.ca_key}: not an elliptic curve key; move ca.key and ca.crt away and restart")
    return key, authority


def _make_authority(files: Certificates, names: Names) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Compliance appliance"),
        x509.NameAttribute(NameOID.COMMON_NAME, f"Appliance CA {os.urandom(4).hex().upper()}"),
    ])
    start = _day(SANE_CLOCK)  # the same whatever the clock says: a CA made in 1970 must hold today
    permitted: list[x509.GeneralName] = [x509.DNSName(name) for name in names.dns]
    permitted += [x509.IPAddress(network) for network in _ranges(names)]
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start).not_valid_after(start + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    authority = builder.sign(key, hashes.SHA256())
    # The certificate first: a key without one would look like damage after a power cut, the reverse is made anew.
    _write(files.ca, authority.public_bytes(serialization.Encoding.PEM), 0o644)
    _write(files.ca_key, _private(key), 0o600)
    return key, authority


def _describe(order: Order, names: Names, authority: x509.Certificate) -> Leaf:
    clock_set = order.now >= SANE_CLOCK
    start = max(order.now, SANE_CLOCK) - 86400
    days = LEAF_DAYS if clock_set else UNSET_CLOCK_DAYS
    end = min(start + days * 86400, SANE_CLOCK + CA_DAYS * 86400)
    digest = authority.fingerprint(hashes.SHA256()).hex().upper()
    shown = ":".join(digest[place : place + 2] for place in range(0, len(digest), 2))
    return Leaf(names, order.names, start, end, shown, clock_set)


def _make_leaf(leaf: Leaf, ca_key: ec.EllipticCurvePrivateKey, authority: x509.Certificate) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subjects: list[x509.GeneralName] = [x509.DNSName(name) for name in leaf.names.dns]
    subjects += [x509.IPAddress(ipaddress.ip_address(address)) for address in leaf.names.addresses]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, leaf.names.dns[0][:64])]))
        .issuer_name(authority.subject).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(_day(leaf.not_before)).not_valid_after(_day(leaf.not_after))
        .add_extension(x509.SubjectAlternativeName(subjects), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    certificate = builder.sign(ca_key, hashes.SHA256())
    return _private(key) + certificate.public_bytes(serialization.Encoding.PEM)


def _ranges(names: Names) -> list[Network]:
    """The private ranges, in which the address may change, and whatever other addresses the appliance has today."""
    others = [ipaddress.ip_network(text) for text in names.addresses]
    return [*LOCAL_RANGES, *(one for one in others if not any(one[0] in network for network in LOCAL_RANGES))]


def _permitted_name(authority: x509.Certificate, name: str) -> bool:
    held = [item.value for item in _permitted(authority) if isinstance(item, x509.DNSName)]
    return any(name == suffix or name.endswith(f".{suffix}") for suffix in held)


def _permitted_address(authority: x509.Certificate, text: str) -> bool:
    address = ipaddress.ip_address(text)
    return any(address in item.value for item in _permitted(authority)
               if isinstance(item, x509.IPAddress)
               and isinstance(item.value, ipaddress.IPv4Network | ipaddress.IPv6Network))


def _permitted(authority: x509.Certificate) -> list[x509.GeneralName]:
    return authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=sign_certificates, crl_sign=sign_certificates,
        encipher_only=False, decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _day(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).replace(microsecond=0)


def _write(path: Path, content: bytes, mode: int) -> None:
    """All of it or nothing, also when the power goes in between."""
    temporary = path.with_name(f".{path.name}.new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)
        file.write(content)
        file.flush()
        os.fsync(handle)
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def main(arguments: Iterable[str] = ()) -> int:
    """Issue what standard input asks for; exit code 1 and one sentence when it cannot be done."""
    try:
        issue(msgspec.json.decode(sys.stdin.buffer.read(65536), type=Order))
    except (CertificateError, msgspec.MsgspecError, OverflowError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
