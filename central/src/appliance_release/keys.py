"""The four roles' keys: root and targets stay offline, snapshot and timestamp may live where metadata is renewed.

A role has one key or several: ROLE.pem and ROLE-*.pem (Ed25519, PKCS#8, encrypted or not). Which of them count is said
by the root metadata, never by a file's name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.metadata import Root  # type: ignore[attr-defined]

OFFLINE = ("root", "targets")
ONLINE = ("snapshot", "timestamp")
ROLES = (*OFFLINE, *ONLINE)
RETIRED = "retired"
"""The folder beside a role's keys where those go that the root no longer names."""


_BRING = "Bring the offline keys for this step (a new repository: `appliance-release keygen` first)"
_REPLACE = "Bring it back; if it is lost: `appliance-release rotate timestamp`, then `rotate snapshot`, in this order"
MISSING = dict.fromkeys(OFFLINE, _BRING) | dict.fromkeys(ONLINE, f"{_REPLACE} (a new repository: `keygen` first)")
"""What to do about a role without a key."""


class KeyFileError(ValueError):
    """A key that is missing, exists already, or cannot be read; the message names its file and what to do."""


@dataclass(frozen=True)
class KeyRing:
    """The private keys at hand. `offline` may lie on another medium; `passphrase` opens encrypted keys."""

    directory: Path
    offline: Path | None = None
    passphrase: bytes = b""

    def folder(self, role: str) -> Path:
        """Where a role's private keys lie."""
        if role in OFFLINE:
            return self.offline or self.directory / "offline"
        return self.directory / "online"

    def files(self, role: str) -> list[Path]:
        """The key files of a role that are there."""
        folder = self.folder(role)
        return [path for path in (folder / f"{role}.pem", *sorted(folder.glob(f"{role}-*.pem"))) if path.exists()]

    def all_signers(self, role: str) -> list[CryptoSigner]:
        """A signer for every key file of a role. Raises `KeyFileError` when there is none."""
        files = self.files(role)
        if not files:
            raise KeyFileError(f"{self.folder(role) / role}.pem is missing. {MISSING[role]}")
        return [self._load(path) for path in files]

    def present(self, role: str) -> list[tuple[Path, CryptoSigner]]:
        """Every key file of a role with its signer; none when they are elsewhere. Raises `KeyFileError`."""
        return [(path, self._load(path)) for path in self.files(role)]

    def signers(self, role: str, root: Root) -> list[CryptoSigner]:
        """Signers that `root` accepts for a role, its threshold at least. Raises `KeyFileError`."""
        found = self.known(role, root)
        needed = root.roles[role].threshold
        if len(found) < needed:
            raise KeyFileError(
                f"{role} needs {needed} of its {len(root.roles[role].keyids)} keys to sign, "
                f"{len(found)} of them lie in {self.folder(role)}. Bring the others"
            )
        return found

    def known(self, role: str, root: Root) -> list[CryptoSigner]:
        """Signers at hand that `root` accepts for a role, perhaps too few. Raises `KeyFileError` without any key."""
        return [signer for signer in self.all_signers(role) if signer.public_key.keyid in root.roles[role].keyids]

    def make(self, role: str, names: list[str]) -> list[CryptoSigner]:
        """Make a key for each file name. Raises `KeyFileError` rather than overwrite one."""
        paths = [self.folder(role) / name for name in names]
        for path in paths:
            if path.exists():
                raise KeyFileError(f"{path} exists; keys are never overwritten, choose another directory")
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(_private_key(self.passphrase if role in OFFLINE else b""))
                file.flush()
                os.fsync(file.fileno())
        return [self._load(path) for path in paths]

    def retire(self, role: str, root: Root) -> list[Path]:
        """Move the keys of a role that `root` no longer names out of the way; where they are now."""
        moved = []
        for path in self.files(role):
            if self._load(path).public_key.keyid in root.roles[role].keyids:
                continue
            aside = path.parent / RETIRED / path.name
            aside.parent.mkdir(exist_ok=True, mode=0o700)
            moved.append(path.rename(_free(aside)))
        return moved

    def _load(self, path: Path) -> CryptoSigner:
        try:
            raw = path.read_bytes()
            encrypted = b"ENCRYPTED" in raw
            if encrypted and not self.passphrase:
                raise KeyFileError(f"{path} is encrypted: give its passphrase with --passphrase-file, or when asked")
            return CryptoSigner(load_pem_private_key(raw, self.passphrase if encrypted else None))
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, KeyFileError):
                raise
            raise KeyFileError(f"{path} is not a usable private key, or the passphrase is wrong: {error}") from error


def file_names(role: str, count: int, tag: str = "") -> list[str]:
    """The names of `count` keys of a role made at once; `tag` tells those of a rotation apart."""
    base = f"{role}-{tag}" if tag else role
    return [f"{base}.pem", *(f"{base}-{number}.pem" for number in range(2, count + 1))]


def generate(directory: Path, counts: Mapping[str, int] | None = None, passphrase: bytes = b"") -> list[Path]:
    """Make the keys of every role, one each unless `counts` says more. Raises `KeyFileError` rather than overwrite one.

    `passphrase`, if any, encrypts the offline ones.
    """
    ring = KeyRing(directory, passphrase=passphrase)
    names = {role: file_names(role, (counts or {}).get(role, 1)) for role in ROLES}
    for role, files in names.items():
        for name in files:
            if (ring.folder(role) / name).exists():
                raise KeyFileError(
                    f"{ring.folder(role) / name} exists; keys are never overwritten, choose another directory"
                )
    for role, files in names.items():
        ring.make(role, files)
    return [ring.folder(role) / name for role, files in names.items() for name in files]


def signer(directory: Path, role: str) -> CryptoSigner:
    """The first signer of a role. Raises `KeyFileError`."""
    return KeyRing(directory).all_signers(role)[0]


def _private_key(passphrase: bytes) -> bytes:
    protection: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


def _free(path: Path) -> Path:
    number, free = 2, path
    while free.exists():
        free, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return free
