"""The canary: a complete, tiny, signed release for the rehearsal that every image carries.

It is a pure function of the disk's layout: keys are derived from public words and times are fixed, so that images
stay reproducible. The keys need no secrecy. A device trusts the canary's root for its own loopback address alone, and
what is fetched there ends in a scratch directory.

The metadata is written as odd as metadata may be: a rotated root, fields nobody knows, an artifact of an unknown kind,
a release for a newer reader and one that nobody can read. An updater that stumbles over any of it must not become
good, because it would stumble over a release to come.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import shutil
import struct
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from appliance_release.repository import CUSTOM_KEY, SIGNED_AT

VERSION = "9999.12.1"
"""Higher than any version that runs anywhere."""

DEVICE_CLASS = "canary"
SIGNED = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
EXPIRES = datetime.datetime(2126, 1, 1, tzinfo=datetime.UTC)
FUTURE: dict[str, Any] = {"x-from-the-future": {"nested": [1, "two", None], "deep": {"er": True}}}
"""What a later format may add anywhere."""

ROLES = ("root", "targets", "snapshot", "timestamp")


class CanaryError(ValueError):
    """A canary that cannot be made; the message says why."""


@dataclass(frozen=True)
class Part:
    """One artifact: its published name and its content before compression."""

    role: str
    name: str
    content: bytes
    uuid: str = ""


def make(directory: Path, layout_file: Path) -> None:
    """Write DIRECTORY/{root.json,metadata,targets} for the disk of `layout_file`. Raises `CanaryError`, `OSError`."""
    layout = tomllib.loads(layout_file.read_text())
    if not re.fullmatch(layout["image"]["version_pattern"], VERSION):
        raise CanaryError(f"{layout_file}: the canary's version {VERSION} does not fit image.version_pattern")
    for name in ("metadata", "targets"):
        shutil.rmtree(directory / name, ignore_errors=True)
        (directory / name).mkdir(parents=True)
    parts, root_hash = _parts(layout)
    targets = Targets(version=1, expires=EXPIRES)
    described = [_place(directory, part, targets) for part in parts]
    uki = targets.targets[f"{DEVICE_CLASS}/{parts[-1].name}"]
    uki.unrecognized_fields["custom"] = {CUSTOM_KEY: _release(root_hash, described)}
    _add_oddities(targets)
    _sign(directory, targets)


def _parts(layout: dict[str, Any]) -> tuple[list[Part], str]:
    """Data, verity tree and UKI; the UKI names the root hash for every flavour of the layout."""
    seed = hashlib.sha256(b"appliance canary").digest()
    data = b"".join(hashlib.sha256(seed + bytes([number])).digest() for number in range(128)) + bytes(128 * 1024)
    verity = hashlib.sha256(data).digest() * 256
    root_hash = hashlib.sha256(data + verity).hexdigest()
    words = [f"{flavour['root_hash_argument']}={root_hash}" for flavour in layout["flavour"].values()]
    names = layout["release"]
    identity = f"IMAGE_ID={layout['image']['id']}\nIMAGE_VERSION={VERSION}\n"
    parts = [
        Part("verity", _named(names["verity"], root_hash[32:]), verity, root_hash[32:]),
        Part("data", _named(names["data"], root_hash[:32]), data, root_hash[:32]),
        Part("uki", _named(names["uki"]), _pe_file(" ".join(("quiet", *words)), identity)),
    ]
    return parts, root_hash


def _named(pattern: str, uuid: str = "") -> str:
    return pattern.replace("@v", VERSION).replace("@u", uuid)


def _pe_file(command_line: str, os_release: str) -> bytes:
    """The least PE file with a .cmdline and an .osrel section (PE/COFF)."""
    line, release = command_line.encode(), os_release.encode()
    header = bytearray(0x200)
    header[:2] = b"MZ"
    struct.pack_into("<I", header, 0x3C, 0x80)
    header[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<HH", header, 0x84, 0x8664, 3)
    struct.pack_into("<8sIIII", header, 0x98, b".linux\0\0", 4096, 0x1000, 4096, 0x600)
    struct.pack_into("<8sIIII", header, 0x98 + 40, b".cmdline", len(line), 0x2000, 0x200, 0x200)
    struct.pack_into("<8sIIII", header, 0x98 + 80, b".osrel\0\0", len(release), 0x3000, 0x200, 0x400)
    return bytes(header) + line.ljust(0x200, b"\0") + release.ljust(0x200, b"\0") + bytes(4096)


def _place(directory: Path, part: Part, targets: Targets) -> dict[str, Any]:
    served = _compressed(part.content) if part.name.endswith(".zst") else part.content
    digest = hashlib.sha256(served).hexdigest()
    path = f"{DEVICE_CLASS}/{part.name}"
    file = directory / "targets" / DEVICE_CLASS / f"{digest}.{part.name}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(served)
    targets.targets[path] = TargetFile(len(served), {"sha256": digest}, path, dict(FUTURE))
    return {
        "role": part.role,
        "target": path,
        "uuid": part.uuid,
        "length": len(served),
        "sha256": digest,
        "content_length": len(part.content),
        "content_sha256": hashlib.sha256(part.content).hexdigest(),
        **FUTURE,
    }


def _compressed(content: bytes) -> bytes:
    try:
        done = subprocess.run(
            ["zstd", "--quiet", "-19", "--single-thread", "--stdout"], input=content, capture_output=True, check=True
        )
    except FileNotFoundError as error:
        raise CanaryError("The program zstd is missing; install it") from error
    except subprocess.CalledProcessError as error:
        raise CanaryError(f"zstd failed: {error.stderr.decode(errors='replace')[:300]}") from error
    return done.stdout


def _release(root_hash: str, artifacts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": 1,
        "version": VERSION,
        "device_classes": [DEVICE_CLASS, "a-class-to-come"],
        "min_reader": 1,
        "root_hash": root_hash,
        "artifacts": [*artifacts, {**artifacts[0], "role": "an-artifact-to-come"}],
        "published_at": int(SIGNED.timestamp()),
        "notes": "A canary for the rehearsal: never installed.",
        **FUTURE,
    }


def _add_oddities(targets: Targets) -> None:
    """Targets beside the release that a reader must pass over: newer, senseless, and not a release at all."""
    oddities: dict[str, Any] = {
        "newer": {CUSTOM_KEY: {"format": 99, "min_reader": 99, "shape": "unlike anything before"}},
        "senseless": {CUSTOM_KEY: {"version": 7, "device_classes": "canary", "artifacts": None}},
        "nothing": {CUSTOM_KEY: None},
        "else": {"somebody-elses": True},
    }
    for name, custom in oddities.items():
        path = f"{DEVICE_CLASS}/{name}.txt"
        digest = hashlib.sha256(name.encode()).hexdigest()
        targets.targets[path] = TargetFile(len(name), {"sha256": digest, "sha512": "00" * 64}, path, {"custom": custom})


def _sign(directory: Path, targets: Targets) -> None:
    """Root 1, a root 2 that hands every role but itself to another key, and the three roles by those keys."""
    first = Root(version=1, consistent_snapshot=True, expires=EXPIRES)
    second = Root(version=2, consistent_snapshot=True, expires=EXPIRES)
    for role in ROLES:
        first.add_key(_signer(role, 1).public_key, role)
        second.add_key(_signer(role, 2).public_key, role)
    metadata = directory / "metadata"
    _write(first, metadata / "1.root.json", _signer("root", 1))
    _write(second, metadata / "2.root.json", _signer("root", 1), _signer("root", 2))
    shutil.copyfile(metadata / "1.root.json", directory / "root.json")
    _write(targets, metadata / "1.targets.json", _signer("targets", 2))
    snapshot = Snapshot(version=1, expires=EXPIRES, meta={"targets.json": MetaFile(1)})
    _write(snapshot, metadata / "1.snapshot.json", _signer("snapshot", 2))
    timestamp = Timestamp(version=1, expires=EXPIRES, snapshot_meta=MetaFile(1))
    _write(timestamp, metadata / "timestamp.json", _signer("timestamp", 2))


def _signer(role: str, generation: int) -> CryptoSigner:
    words = f"appliance canary: {role} {generation}".encode()
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(words).digest()))


def _write(signed: Any, path: Path, *signers: CryptoSigner) -> None:
    signed.unrecognized_fields[SIGNED_AT] = SIGNED.isoformat().replace("+00:00", "Z")
    signed.unrecognized_fields.update(FUTURE)
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    path.write_bytes(metadata.to_bytes())
