"""The three files of a build: recognised by name, compressed, measured, and checked against each other."""

from __future__ import annotations

import contextlib
import hashlib
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

VERSION = re.compile(r"[0-9]{4}\.[0-9]{1,2}\.[0-9]{1,5}")
PARTITION = re.compile(
    r"(?P<id>[a-z0-9]+)_(?P<version>[^_+/]+)\.(?P<role>data|verity)\.(?P<uuid>[0-9a-f]{32})\.raw(?P<packed>\.zst)?"
)
RECOVERY = re.compile(r"(?P<id>[a-z0-9]+)-recovery_(?P<version>[^_+/]+)\.efi")
UKI = re.compile(r"(?P<id>[a-z0-9]+)_(?P<version>[^_+/]+)\.efi")
NEEDED = {
    "verity": "*_VERSION.verity.UUID.raw[.zst]",
    "data": "*_VERSION.data.UUID.raw[.zst]",
    "uki": "*_VERSION.efi",
}
"""What the files of every release are called."""
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
    """The data, verity and UKI file of one version among files and directories, and a recovery if one is there.

    Raises `ArtifactError`.
    """
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
    missing = [name.replace("VERSION", version) for role, name in NEEDED.items() if role not in found]
    if missing:
        raise ArtifactError(f"No {' and no '.join(missing)} among {len(files)} files (UUID: 32 digits)")
    return [found[role] for role in ("recovery", *NEEDED) if role in found]


def _recognised(path: Path, version: str) -> Artifact | None:
    match = PARTITION.fullmatch(path.name)
    if match and match["version"] == version:
        name = path.name if match["packed"] else f"{path.name}.zst"
        return Artifact(match["role"], name, path, match["uuid"])
    if RECOVERY.fullmatch(path.name):  # its version is its own
        return Artifact("recovery", path.name, path)
    match = UKI.fullmatch(path.name)
    return Artifact("uki", path.name, path) if match and match["version"] == version else None


def root_hash(artifacts: list[Artifact]) -> tuple[str, str]:
    """Root hash and flavour of the build: the UKI must name what the partitions are, and its own version.

    Raises `ArtifactError`.
    """
    by_role = {artifact.role: artifact for artifact in artifacts}
    _check_identity(by_role["uki"])
    line = _section(by_role["uki"].path, ".cmdline")
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


def _check_identity(uki: Artifact) -> None:
    """The kernel image must call itself by the name and version it is published under. Raises `ArtifactError`.

    The boot loader orders its entries by IMAGE_ID and IMAGE_VERSION of the `.osrel` section. One with a higher version
    than its own would be booted before every later release, on every device that took it.
    """
    pairs = (line.partition("=") for line in _section(uki.path, ".osrel").splitlines())
    called = {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
    own = called.get("IMAGE_ID", ""), called.get("IMAGE_VERSION", "")
    wanted = tuple(uki.name.removesuffix(".efi").split("_"))
    if own != wanted:
        raise ArtifactError(
            f"{uki.path.name} calls itself {own[0]!r} {own[1]!r} (IMAGE_ID, IMAGE_VERSION of its os-release), not "
            f"{wanted[0]!r} {wanted[1]!r}: boot loaders would put it in a wrong place"
        )


def _section(path: Path, name: str) -> str:
    """The text of a section of a unified kernel image (PE/COFF)."""
    try:
        raw = path.read_bytes()
        header = struct.unpack_from("<I", raw, 0x3C)[0]
        if raw[:2] != b"MZ" or raw[header : header + 4] != b"PE\0\0":
            raise ArtifactError(f"{path} is not a PE file")
        count, optional = struct.unpack_from("<H", raw, header + 6)[0], struct.unpack_from("<H", raw, header + 20)[0]
        for index in range(count):
            section = struct.unpack_from("<8sIIII", raw, header + 24 + optional + index * 40)
            if section[0].rstrip(b"\0") == name.encode():
                return raw[section[4] : section[4] + section[1]].rstrip(b"\0").decode("utf-8", "replace")
    except (OSError, struct.error) as error:
        raise ArtifactError(f"{path} is not a unified kernel image: {error}") from error
    raise ArtifactError(f"{path} has no {name} section: it is not a unified kernel image that a boot loader takes")


Report = Callable[[str, int, int], None]
"""Told of progress: what is done, bytes done, bytes in all (0: not known)."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Report nothing."""


@contextmanager
def packed(artifact: Artifact, level: int = 6, report: Report = silent) -> Iterator[tuple[Path, Measured]]:
    """The file to serve (compressed where its published name says so) and its measures. Raises `ArtifactError`."""
    if artifact.role in ("uki", "recovery") or artifact.path.name.endswith(".zst"):
        yield artifact.path, measured(artifact.path, report)
        return
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / artifact.name
        content = _compress(artifact.path, target, level, report)
        sha256, length = _hash_stream(target, report)
        yield target, Measured(length, sha256, content[1], content[0])


@contextmanager
def unpacked(artifact: Artifact, report: Report = silent) -> Iterator[Path]:
    """The content of an artifact as a plain file. Raises `ArtifactError`."""
    if not artifact.path.name.endswith(".zst"):
        yield artifact.path
        return
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / artifact.name.removesuffix(".zst")
        with target.open("wb") as file:
            _decompress(artifact.path, file.write, report)
        yield target


def measured(path: Path, report: Report = silent) -> Measured:
    """Length and hash of a file, and of what is in it when it is compressed. Raises `ArtifactError`."""
    sha256, length = _hash_stream(path, report)
    if not path.name.endswith(".zst"):
        return Measured(length, sha256, length, sha256)
    digest = hashlib.sha256()
    count = _decompress(path, digest.update, report)
    return Measured(length, sha256, count, digest.hexdigest())


def _decompress(path: Path, take: Callable[[bytes], object], report: Report) -> int:
    """Hand the content of a .zst file to `take`, chunk by chunk; its length."""
    command, count = ["zstd", "--decompress", "--stdout", "--quiet", "--", str(path)], 0
    with _started(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while chunk := process.stdout.read(CHUNK):
            take(chunk)
            count += len(chunk)
            report(f"unpacking {path.name}", count, 0)
    if process.returncode:
        raise ArtifactError(f"{path} cannot be decompressed")
    return count


def _compress(source: Path, target: Path, level: int, report: Report) -> tuple[str, int]:
    """Compress a file; SHA-256 and length of what went in. Raises `ArtifactError`."""
    size, digest, count = source.stat().st_size, hashlib.sha256(), 0
    command = ["zstd", "--quiet", "--force", f"-{level}", "--threads=0", f"--stream-size={size}", "-o", str(target)]
    with source.open("rb") as file, _started(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        with contextlib.suppress(BrokenPipeError):  # zstd has given up; it says why
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                count += len(chunk)
                process.stdin.write(chunk)
                report(f"compressing {source.name}", count, size)
            process.stdin.close()
        trouble = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        raise ArtifactError(f"zstd failed: {trouble[:300]}")
    return digest.hexdigest(), count


def _started(command: list[str], **options: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, **options)  # type: ignore[call-overload,no-any-return]
    except FileNotFoundError as error:
        raise ArtifactError("The program zstd is missing; install it") from error


def _hash_stream(path: Path, report: Report) -> tuple[str, int]:
    digest, length, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            length += len(chunk)
            report(f"hashing {path.name}", length, size)
    return digest.hexdigest(), length
