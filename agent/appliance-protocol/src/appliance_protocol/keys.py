"""Ed25519 keys: who signed, by a name that is derived from the key itself (RFC 8032, through libsodium)."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

SEED_BYTES = 32
# libsodium is loaded by whoever first signs or verifies: it costs more than a MiB, and the portal imports these models
# without ever doing either at rest.


class KeyFormatError(ValueError):
    """A key that cannot be read; the message says which file or text and why."""


def key_id(public_key: bytes) -> str:
    """The name of a public key: `ed25519:` and the first 32 hexadecimal digits of its SHA-256."""
    return "ed25519:" + hashlib.sha256(public_key).hexdigest()[:32]


@dataclass(frozen=True)
class PublicKey:
    """The half of a key that may be shown to anybody."""

    raw: bytes

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Read the base64 form. Raises `KeyFormatError` when it is not 32 bytes in base64."""
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise KeyFormatError(f"public key {text[:60]!r}: not base64") from error
        if len(raw) != SEED_BYTES:
            raise KeyFormatError(f"public key {text[:60]!r}: {len(raw)} bytes instead of {SEED_BYTES}")
        return cls(raw)

    @property
    def text(self) -> str:
        """The base64 form, as it stands in enrolment requests and on the portal."""
        return base64.b64encode(self.raw).decode()

    @functools.cached_property
    def key_id(self) -> str:
        """See `key_id`."""
        return key_id(self.raw)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `message`."""
        import nacl.exceptions
        import nacl.signing

        try:
            nacl.signing.VerifyKey(self.raw).verify(message, signature)
        except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError):
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """A signing key. It is made on the machine that uses it and never leaves it."""

    seed: bytes

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.key_id})"

    @classmethod
    def generate(cls) -> PrivateKey:
        """A new key from the kernel's random numbers."""
        import nacl.signing

        return cls(bytes(nacl.signing.SigningKey.generate()))

    @classmethod
    def load(cls, path: Path) -> PrivateKey:
        """Read a key file written by `save`.

        Raises `FileNotFoundError` when there is none, `KeyFormatError` when it is damaged (it is then never replaced
        silently: a device with a new key is a new device).
        """
        try:
            seed = base64.b64decode(path.read_bytes().strip(), validate=True)
        except (binascii.Error, ValueError) as error:
            raise KeyFormatError(f"key file {path}: not base64; restore it or enrol the device again") from error
        if len(seed) != SEED_BYTES:
            raise KeyFormatError(f"key file {path}: {len(seed)} bytes, not {SEED_BYTES}; restore it or enrol again")
        return cls(seed)

    def save(self, path: Path) -> None:
        """Write the key so that only its owner can read it, and so that a power cut leaves either all of it or none.

        Raises `FileExistsError` when the file is there already, `OSError` when it cannot be written.
        """
        if path.exists():
            raise FileExistsError(f"{path} exists; a key is never overwritten")
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(base64.b64encode(self.seed) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @functools.cached_property
    def public(self) -> PublicKey:
        """The key that verifies what this one signs."""
        import nacl.signing

        return PublicKey(bytes(nacl.signing.SigningKey(self.seed).verify_key))

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `message`."""
        import nacl.signing

        return nacl.signing.SigningKey(self.seed).sign(message).signature
