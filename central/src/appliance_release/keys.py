"""The four roles' keys: root and targets stay offline, snapshot and timestamp may live where metadata is renewed."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

OFFLINE = ("root", "targets")
ONLINE = ("snapshot", "timestamp")


class KeyFileError(ValueError):
    """A key that is missing, exists already, or cannot be read; the message names its file and what to do."""


def key_file(directory: Path, role: str) -> Path:
    """Where a role's private key lies."""
    return directory / ("offline" if role in OFFLINE else "online") / f"{role}.pem"


def generate(directory: Path) -> list[Path]:
    """Make an Ed25519 key for each role. Raises `KeyFileError` rather than overwrite one."""
    files = [key_file(directory, role) for role in (*OFFLINE, *ONLINE)]
    for path in files:
        if path.exists():
            raise KeyFileError(f"{path} exists; keys are never overwritten, choose another directory")
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(CryptoSigner.generate_ed25519().private_bytes)
    return files


def signer(directory: Path, role: str) -> CryptoSigner:
    """The signer of a role. Raises `KeyFileError`."""
    path = key_file(directory, role)
    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except FileNotFoundError as error:
        where = "Bring the offline keys for this step" if role in OFFLINE else "Run `appliance-release keygen` first"
        raise KeyFileError(f"{path} is missing. {where}") from error
    except (OSError, ValueError, TypeError) as error:
        raise KeyFileError(f"{path} is not a usable private key: {error}") from error
