"""The three files of a build: recognised by name, compressed, measured, and checked against each other."""

from __future__ import annotations

import hashlib
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

VERSION = re.compile(r"[0-9]{4}\.[0-9]{1,2}\.[0-9]{1,5}")
PARTITION = re.compile(
    r"(?P<id>[a-z0-9]+)_(?P<version>[^_+/]+)\.(?P<role>data|verity)\.(?P<uuid>[0-9a-f]{32})\.raw(?P<packed>\.zst)?"
)
UKI = re.compile(r"(?P<id>[a-z0-9]+)_(?P<version>[^_+/]+)\.efi")
CHUNK = 1024 * 1024


class ArtifactError(ValueError):
    """Files that do not make a release; the message says which and why."""


@dataclass(frozen=True)
class Artifact:
    """One file of a build. `name` is the name it is published under."""

    role: str
    name: str
    path: Path
    uuid: str = ""


@dataclass(frozen=True)
class Measured:
    """Lengths in bytes and SHA-256 of the file as served and of what is in it."""

    length: int
    sha256: str
    content_length: int
    content_sha256: str


def checked_version(version: str) -> tuple[int, ...]:
    """The version as numbers, for comparison. Raises `ArtifactError` for any form but YYYY.MM.N."""
    if not VERSION.fullmatch(version):
        raise ArtifactError(
            f"{version!r} is not a version of the form YYYY.MM.N; `_` and `+` above all would break labels and counters"
        )
    return tuple(int(part) for part in version.split("."))


def collect(paths: tuple[Path, ...], version: str) -> list[Artifact]:
    """The data, verity and UKI file of one version among files and directories. Raises `ArtifactError`."""
    checked_version(version)
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    found: dict[str, Artifact] = {}
    for path in files:
        artifact = _recognised(path, version)
        if artifact is None:
            if path in paths:
                raise ArtifactError(f"{path} is not named like an artifact of {version}: see [release] in layout.toml")
            continue
        if artifact.role in found:
            raise ArtifactError(f"{path} and {found[artifact.role].path} are both the {artifact.role} of {version}")
        found[artifact.role] = artifact
    missing = [role for role in ("verity", "data", "uki") if role not in found]
    if missing:
        raise ArtifactError(f"The {' and the '.join(missing)} of {version} is missing among {len(files)} files")
    return [found[role] for role in ("verity", "data", "uki")]


def _recognised(path: Path, version: str) -> Artifact | None:
    match = PARTITION.fullmatch(path.name)
    if match and match["version"] == version:
        name = path.name if match["packed"] else f"{path.name}.zst"
        return Artifact(match["role"], name, path, match["uuid"])
    match = UKI.fullmatch(path.name)
    return Artifact("uki", path.name, path) if match and match["version"] == version else None


def root_hash(artifacts: list[Artifact]) -> tuple[str, str]:
    """Root hash and flavour of the build: the UKI must name what the partitions are. Raises `ArtifactError`."""
    by_role = {artifact.role: artifact for artifact in artifacts}
    line = _command_line(by_role["uki"].path)
    for argument, flavour in (("usrhash", "nixos"), ("roothash", "standin")):
        values = [word.partition("=")[2] for word in line.split() if word.startswith(f"{argument}=")]
        if values:
            demanded = by_role["data"].uuid + by_role["verity"].uuid
            if values[-1] != demanded:
                raise ArtifactError(
                    f"{by_role['uki'].path.name} boots the slot with root hash {values[-1]}, "
                    f"the partitions belong to {demanded}: they are not of one build"
                )
            return demanded, flavour
    raise ArtifactError(f"{by_role['uki'].path.name} names no root hash (usrhash= or roothash=) on its command line")


def _command_line(path: Path) -> str:
    """The `.cmdline` section of a unified kernel image (PE/COFF)."""
    try:
        raw = path.read_bytes()
        header = struct.unpack_from("<I", raw, 0x3C)[0]
        if raw[:2] != b"MZ" or raw[header : header + 4] != b"PE\0\0":
            raise ArtifactError(f"{path} is not a PE file")
        count, optional = struct.unpack_from("<H", raw, header + 6)[0], struct.unpack_from("<H", raw, header + 20)[0]
        for index in range(count):
            section = struct.unpack_from("<8sIIII", raw, header + 24 + optional + index * 40)
            if section[0].rstrip(b"\0") == b".cmdline":
                return raw[section[4] : section[4] + section[1]].rstrip(b"\0").decode("utf-8", "replace")
    except (OSError, struct.error) as error:
        raise ArtifactError(f"{path} is not a unified kernel image: {error}") from error
    raise ArtifactError(f"{path} has no .cmdline section: it is not a unified kernel image")


@contextmanager
def packed(artifact: Artifact, level: int = 6) -> Iterator[tuple[Path, Measured]]:
    """The file to serve (compressed where its published name says so) and its measures. Raises `ArtifactError`."""
    if artifact.role == "uki" or artifact.path.name.endswith(".zst"):
        yield artifact.path, _measure(artifact.path)
        return
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / artifact.name
        _zstd([f"-{level}", "--threads=0", "-o", str(target), "--", str(artifact.path)])
        yield target, _measure(target)


def _measure(path: Path) -> Measured:
    sha256, length = _hash_stream(path)
    if not path.name.endswith(".zst"):
        return Measured(length, sha256, length, sha256)
    command = ["zstd", "--decompress", "--stdout", "--quiet", "--", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        digest, count = hashlib.sha256(), 0
        while chunk := process.stdout.read(CHUNK):
            digest.update(chunk)
            count += len(chunk)
    if process.returncode:
        raise ArtifactError(f"{path} cannot be decompressed")
    return Measured(length, sha256, count, digest.hexdigest())


def _hash_stream(path: Path) -> tuple[str, int]:
    digest, length = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            length += len(chunk)
    return digest.hexdigest(), length


def _zstd(arguments: list[str]) -> None:
    try:
        subprocess.run(["zstd", "--quiet", "--force", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ArtifactError("The program zstd is missing; install it") from error
    except subprocess.CalledProcessError as error:
        raise ArtifactError(f"zstd failed: {error.stderr.strip()[:300]}") from error
