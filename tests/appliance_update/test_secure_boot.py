"""What the firmware would refuse is refused before anything is written: sbsign signs a real EFI file."""

from __future__ import annotations

import datetime
import struct
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from appliance_update import secure_boot
from appliance_update.host import Host
from appliance_update.secure_boot import SignatureError

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
GLOBAL, DATABASE = "8be4df61-93ca-11d2-aa0d-00e098032b8c", "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
"""EFI_GLOBAL_VARIABLE and EFI_IMAGE_SECURITY_DATABASE_GUID of UEFI 2.10, 3.3 and 32.6.1."""
ATTRIBUTES = b"\x27\0\0\0"


@dataclass(frozen=True)
class Signer:
    """A key with its certificate, as files for sbsign."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey
    files: tuple[Path, Path]


def signer(directory: Path, name: str, by: Signer | None = None) -> Signer:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    today = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today)
        .not_valid_after(today + datetime.timedelta(days=3650))
        .sign(by.key if by else key, hashes.SHA256())
    )
    files = directory / f"{name}.key", directory / f"{name}.crt"
    files[0].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Signer(certificate, key, files)


def signed(source: Path, by: Signer, target: Path) -> Path:
    call = ["sbsign", "--key", str(by.files[0]), "--cert", str(by.files[1]), "--output", str(target), str(source)]
    subprocess.run(call, check=True, capture_output=True)
    return target


def signature_list(kind: uuid.UUID, *values: bytes) -> bytes:
    """An EFI_SIGNATURE_LIST (UEFI 2.10, 32.4.1) for values of one length."""
    owner = uuid.UUID(int=1).bytes_le
    size = 16 + len(values[0])
    return struct.pack("<16sIII", kind.bytes_le, 28 + size * len(values), 0, size) + b"".join(owner + v for v in values)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


@dataclass
class Firmware:
    """The variables of one machine, and the files it is offered."""

    root: Path
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        self.host = Host(self.root)
        (self.root / "sys/firmware/efi/efivars").mkdir(parents=True)
        self.set("SecureBoot", b"\1", GLOBAL)

    def set(self, name: str, value: bytes, vendor: str = DATABASE) -> None:
        (self.root / f"sys/firmware/efi/efivars/{name}-{vendor}").write_bytes(ATTRIBUTES + value)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return signer(tmp_path_factory.mktemp("keys"), "provider")


@pytest.fixture
def firmware(tmp_path: Path, provider: Signer) -> Firmware:
    made = Firmware(tmp_path / "root")
    hashes_of_others = signature_list(SHA256, bytes(32), b"\1" * 32)
    made.set("db", hashes_of_others + signature_list(X509, der(provider.certificate)))
    made.set("dbx", signature_list(SHA256, b"\2" * 32))
    return made


def test_what_a_known_key_signed_is_taken(firmware: Firmware, provider: Signer, tmp_path: Path) -> None:
    secure_boot.check(firmware.host, signed(STUB, provider, tmp_path / "signed.efi"))


def test_a_second_signature_does_no_harm(firmware: Firmware, provider: Signer, tmp_path: Path) -> None:
    stranger = signer(tmp_path, "stranger")
    first = signed(STUB, stranger, tmp_path / "first.efi")
    secure_boot.check(firmware.host, signed(first, provider, tmp_path / "both.efi"))


def test_a_key_whose_issuer_the_firmware_knows_is_taken(firmware: Firmware, provider: Signer, tmp_path: Path) -> None:
    leaf = signer(tmp_path, "leaf", by=provider)
    secure_boot.check(firmware.host, signed(STUB, leaf, tmp_path / "signed.efi"))


def test_what_is_not_signed_is_refused_with_what_to_do(firmware: Firmware) -> None:
    with pytest.raises(SignatureError, match=r"is not signed: sign it .*secure-boot\.md"):
        secure_boot.check(firmware.host, STUB)


def test_what_a_stranger_signed_is_refused(firmware: Firmware, tmp_path: Path) -> None:
    stranger = signed(STUB, signer(tmp_path, "provider"), tmp_path / "signed.efi")  # of the same name
    with pytest.raises(SignatureError, match="no key in this firmware's db"):
        secure_boot.check(firmware.host, stranger)


@pytest.mark.parametrize("where", [0x400, -40_000])
def test_what_was_changed_after_it_was_signed_is_refused(
    firmware: Firmware, provider: Signer, tmp_path: Path, where: int
) -> None:
    path = signed(STUB, provider, tmp_path / "signed.efi")
    raw = bytearray(path.read_bytes())
    raw[where] ^= 1
    path.write_bytes(raw)
    with pytest.raises(SignatureError, match="as it is"):
        secure_boot.check(firmware.host, path)


def test_a_key_that_was_revoked_is_refused(firmware: Firmware, provider: Signer, tmp_path: Path) -> None:
    firmware.set("dbx", signature_list(X509, der(provider.certificate)))
    with pytest.raises(SignatureError, match="no key in this firmware's db"):
        secure_boot.check(firmware.host, signed(STUB, provider, tmp_path / "signed.efi"))


DAMAGED = {
    "not set": b"",
    "hashes only": signature_list(SHA256, bytes(32)),
    "zeros": b"\0" * 40,
    "ones": b"\xff" * 60,
    "no certificate in it": X509.bytes_le + struct.pack("<III", 60, 0, 32) + bytes(32),
}


@pytest.mark.parametrize("db", DAMAGED.values(), ids=DAMAGED)
def test_variables_that_cannot_be_read_refuse(firmware: Firmware, provider: Signer, tmp_path: Path, db: bytes) -> None:
    firmware.set("db", db)
    with pytest.raises(SignatureError, match="cannot be judged"):
        secure_boot.check(firmware.host, signed(STUB, provider, tmp_path / "signed.efi"))


@pytest.mark.parametrize("content", [b"", b"MZ", b"MZ" + bytes(200), bytes(4096)], ids=len)
def test_what_is_no_program_is_refused(firmware: Firmware, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "strange.efi"
    path.write_bytes(content)
    with pytest.raises(SignatureError):
        secure_boot.check(firmware.host, path)


@pytest.mark.parametrize("value", [b"\0", b""])
def test_where_secure_boot_is_off_nothing_is_asked(firmware: Firmware, value: bytes) -> None:
    firmware.set("SecureBoot", value, GLOBAL)
    secure_boot.check(firmware.host, STUB)


def test_firmware_without_secure_boot_is_asked_nothing(tmp_path: Path) -> None:
    secure_boot.check(Host(tmp_path), STUB)
