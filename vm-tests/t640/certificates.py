"""The rig's own certificate authority: Central Command speaks HTTPS with a certificate of it."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFETIME = datetime.timedelta(days=365)


@dataclass(frozen=True)
class Authority:
    """Files of a new authority and of one server certificate below it."""

    ca: Path
    certificate: Path
    key: Path


def create(folder: Path, names: tuple[str, ...], addresses: tuple[str, ...]) -> Authority:
    """Make an authority and a server certificate for the names and addresses."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Virtual clinic's authority")])
    ca = _builder(ca_name, ca_name, ca_key.public_key())
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    ca = ca.add_extension(usage, critical=True)
    ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    server = _builder(server_name, ca_name, key.public_key())
    server = server.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    server = server.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    server = server.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
    )
    signed_ca, signed = ca.sign(ca_key, hashes.SHA256()), server.sign(ca_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    authority.ca.write_bytes(signed_ca.public_bytes(pem))
    authority.certificate.write_bytes(signed.public_bytes(pem) + signed_ca.public_bytes(pem))
    plain = serialization.NoEncryption()
    authority.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    authority.key.chmod(0o600)
    return authority


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _LIFETIME)
    )
