"""The lifeline file: a whole slot for devices whose updater is dead, signed with minisign (format: docs/lifeline.md).

Nothing of it is TUF's: another key, another host, another reader. It is static files again:
SITE/<class>-<flavour>.lifeline, its .minisig, and SITE/pieces/ named by their content.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click
from rich.console import Console

from appliance_release.artifacts import Artifact, ArtifactError, collect, root_hash

FIRST_LINE = "appliance-lifeline 1"
ROLES = ("verity", "data", "uki")
PIECE = 16 * 1024 * 1024
"""Bytes of content a piece: the most that a power cut makes a device fetch twice, and what it keeps in memory."""

DAY = 86400
LIMIT = 1024 * 1024
CLASS = re.compile(r"[a-z0-9][a-z0-9-]*")


class LifelineError(ValueError):
    """What cannot be published, or was found wrong; the message says what to do."""


@dataclass(frozen=True)
class Order:
    """What is to be published. `days` is how long the file holds; `number` 0 means the next one."""

    version: str
    device_class: str = "t640"
    number: int = 0
    days: int = 90
    downgrade: bool = False
    note: str = ""
    level: int = 12
    piece: int = PIECE


def publish(site: Path, order: Order, artifacts: list[Artifact], secret_key: Path, now: float) -> Path:
    """Write pieces, file and signature. The file comes last. Raises `LifelineError`, `ArtifactError`, `OSError`."""
    if not CLASS.fullmatch(order.device_class):
        raise LifelineError(f"{order.device_class!r} is no device class: small letters, digits and dashes")
    if order.piece % 4096 or order.piece <= 0:
        raise LifelineError("A piece has a multiple of 4096 bytes")
    demanded, flavour = root_hash(artifacts)
    target = site / f"{order.device_class}-{flavour}.lifeline"
    number = _next(target, order.number)
    (site / "pieces").mkdir(parents=True, exist_ok=True)
    lines = [
        FIRST_LINE,
        f"number {number}",
        f"issued {int(now)}",
        f"not-after {int(now) + order.days * DAY}",
        f"class {order.device_class}",
        f"flavour {flavour}",
        f"version {order.version}",
        f"root-hash {demanded}",
        *(["downgrade yes"] if order.downgrade else []),
        *([f"note {_plain(order.note)}"] if order.note else []),
    ]
    for role in ROLES:
        lines += _pieces(site, role, next(one for one in artifacts if one.role == role), order)
    _sign(target, "\n".join(lines) + "\n", secret_key)
    return target


def renew(target: Path, secret_key: Path, days: int, now: float) -> int:
    """Sign a published file again, with the next number and a later end; the new number. Raises `LifelineError`."""
    number = _next(target, 0)
    changed = {"number": number, "issued": int(now), "not-after": int(now) + days * DAY}
    lines = target.read_text("ascii").splitlines()
    lines = [f"{key} {changed[key]}" if (key := line.partition(" ")[0]) in changed else line for line in lines]
    _sign(target, "\n".join(lines) + "\n", secret_key)
    return number


def verify(target: Path, public_key: Path, now: float) -> list[str]:
    """What a device would not take: signature, end, and every piece. Raises `OSError`."""
    command = ["minisign", "-V", "-q", "-p", str(public_key), "-m", str(target), "-x", f"{target}.minisig"]
    if _minisign(command).returncode:
        return [f"{target} is not signed with {public_key}"]
    values = [line.split(" ") for line in target.read_text("ascii").splitlines()]
    problems = []
    for words in values:
        if words[0] == "not-after" and int(words[1]) < now:
            problems.append(f"{target} has run out; `appliance-release lifeline renew` signs it again")
        if words[0] != "piece":
            continue
        path = target.parent / words[5]
        if not path.is_file() or path.stat().st_size != int(words[6]):
            problems.append(f"{path} is missing or has another length than was signed")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != words[7]:
            problems.append(f"{path} is not what was signed")
    return problems


def _next(target: Path, wanted: int) -> int:
    last = 0
    if target.exists():
        found = re.search(r"(?m)^number ([0-9]{1,15})$", target.read_text("ascii", "replace"))
        if found is None:
            raise LifelineError(f"{target} is there and has no number; move it away")
        last = int(found[1])
    if wanted and wanted <= last:
        raise LifelineError(f"Number {wanted} was published already ({last} is the last one); devices would refuse it")
    return wanted or last + 1


def _plain(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise LifelineError("The note must be one line of ASCII text")
    return text


def _pieces(site: Path, role: str, artifact: Artifact, order: Order) -> list[str]:
    """The `whole` line of an artifact and its `piece` lines; the pieces are written beside."""
    whole, offset, lines = hashlib.sha256(), 0, []
    with _content(artifact) as content:
        while chunk := content.read(order.piece):
            whole.update(chunk)
            packed = _zstd(chunk, order.level)
            stored = hashlib.sha256(packed).hexdigest()
            path = f"pieces/{stored}.zst"
            _write(site / path, packed)
            digest = hashlib.sha256(chunk).hexdigest()
            lines.append(f"piece {role} {offset} {len(chunk)} {digest} {path} {len(packed)} {stored}")
            offset += len(chunk)
    if not offset:
        raise LifelineError(f"{artifact.path} is empty")
    return [f"whole {role} {offset} {whole.hexdigest()}", *lines]


@contextlib.contextmanager
def _content(artifact: Artifact) -> Iterator[IO[bytes]]:
    """The bytes that end up on the device."""
    if not artifact.path.name.endswith(".zst"):
        with artifact.path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        done = subprocess.run(["zstd", "-dcq", "--", str(artifact.path)], stdout=file, check=False)
        if done.returncode:
            raise LifelineError(f"{artifact.path} cannot be decompressed")
        file.seek(0)
        yield file


def _zstd(chunk: bytes, level: int) -> bytes:
    try:
        return subprocess.run(["zstd", "-q", "-c", f"-{level}"], input=chunk, capture_output=True, check=True).stdout
    except FileNotFoundError as error:
        raise LifelineError("The program zstd is missing; install it") from error


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def _sign(target: Path, text: str, secret_key: Path) -> None:
    """Put file and signature in place. Between the two renames a device refuses, and asks again an hour later."""
    if len(text) > LIMIT:
        raise LifelineError(f"The file would have {len(text)} bytes, devices read {LIMIT}: choose larger pieces")
    new, signature = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.new.minisig")
    new.write_text(text, "ascii")
    comment = f"lifeline {text.splitlines()[1]}"
    command = ["minisign", "-S", "-s", str(secret_key), "-m", str(new), "-x", str(signature), "-t", comment]
    if _minisign(command).returncode:
        new.unlink()
        raise LifelineError(f"minisign could not sign with {secret_key}")
    new.replace(target)
    signature.replace(target.with_name(f"{target.name}.minisig"))


def _minisign(command: list[str]) -> subprocess.CompletedProcess[str]:
    """What minisign has to say, and its question for a key's password, goes to the terminal's stderr."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    except FileNotFoundError as error:
        raise LifelineError("The program minisign is missing; install it") from error


# -- the command line -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _spoken() -> Iterator[None]:
    try:
        yield
    except (LifelineError, ArtifactError, OSError) as error:
        click.echo(str(error), err=True)
        sys.exit(2)


SITE = click.option("--site", type=click.Path(path_type=Path, file_okay=False), required=True,
                    help="The directory that the lifeline's own host serves.")  # fmt: skip
SECRET = click.option("--secret-key", type=click.Path(path_type=Path, exists=True), required=True,
                      help="Made by `minisign -G -p lifeline.pub -s lifeline.key`.")  # fmt: skip
DAYS = click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="How long it holds.")
CLASSES = click.option("--device-class", default="t640", show_default=True)


@click.group(name="lifeline")
def lifeline() -> None:
    """The second channel, for devices whose updater is dead: other key, other host, other format (docs/lifeline.md)."""


@lifeline.command(name="publish")
@SITE
@SECRET
@DAYS
@CLASSES
@click.option("--version", required=True, help="YYYY.MM.N of the build.")
@click.option("--number", type=click.IntRange(1), default=None, help="Default: one more than the last.")
@click.option("--downgrade", is_flag=True, help="Devices may go back from a newer version to this one.")
@click.option("--note", default="", help="A sentence for people.")
@click.option("--level", type=click.IntRange(1, 19), default=12, show_default=True, help="zstd compression level.")
@click.argument("artifacts", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
def publish_command(
    site: Path, secret_key: Path, days: int, device_class: str, version: str, number: int | None, downgrade: bool,
    note: str, level: int, artifacts: tuple[Path, ...],
) -> None:  # fmt: skip
    """Publish a build: ARTIFACTS are its data, verity and UKI files, or a directory with them."""
    with _spoken(), Console(stderr=True).status(f"Cutting {version} into pieces"):
        order = Order(version, device_class, number or 0, days, downgrade, note, level)
        click.echo(publish(site, order, collect(artifacts, version), secret_key, time.time()))


@lifeline.command(name="renew")
@SECRET
@DAYS
@click.argument("file", type=click.Path(path_type=Path, exists=True))
def renew_command(file: Path, secret_key: Path, days: int) -> None:
    """Sign FILE again with the next number and a later end."""
    with _spoken():
        click.echo(f"{file} has number {renew(file, secret_key, days, time.time())}")


@lifeline.command(name="verify")
@click.option("--public-key", type=click.Path(path_type=Path, exists=True), required=True)
@click.argument("file", type=click.Path(path_type=Path, exists=True))
def verify_command(file: Path, public_key: Path) -> None:
    """See FILE and its pieces as a device does; exit 1 when something is wrong."""
    with _spoken():
        problems = verify(file, public_key, time.time())
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(1 if problems else 0)
