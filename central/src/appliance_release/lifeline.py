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
from typing import IO, NoReturn

import click
from rich.console import Console

from appliance_release.artifacts import VERSION, Artifact, ArtifactError, collect, root_hash

FIRST_LINE = "appliance-lifeline 1"
ROLES = ("verity", "data", "uki")
PIECE = 16 * 1024 * 1024
"""Bytes of content a piece: the most that a power cut makes a device fetch twice, and what it keeps in memory."""

DAY = 86400
LIMIT = 1024 * 1024
PIECE_LIMIT = 128 * 1024 * 1024
UKI_LIMIT = 512 * 1024 * 1024
HIGHEST = 10**15 - 1
CLASS = re.compile(r"[a-z0-9][a-z0-9-]*")
NUMBER = re.compile(r"0|[1-9][0-9]{0,14}")
HASH = re.compile(r"[0-9a-f]{64}")
ONCE = ("number", "issued", "not-after", "class", "flavour", "version", "root-hash", "downgrade")


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
    if order.piece % 4096 or not 0 < order.piece <= PIECE_LIMIT:
        raise LifelineError(f"A piece has a multiple of 4096 bytes, and at most {PIECE_LIMIT}")
    demanded, flavour = root_hash(artifacts)
    target = site / f"{order.device_class}-{flavour}.lifeline"
    number = _next(target, order.number, now)
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
    number = _next(target, 0, now)
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
    try:
        offer = read(target.read_bytes())
    except LifelineError as error:
        return [f"{target}: {error}"]
    problems = []
    if offer.not_after < now:
        problems.append(f"{target} has run out; `appliance-release lifeline renew` signs it again")
    if offer.issued > now + DAY:
        problems.append(f"{target} was issued at a time that is yet to come; is this clock right?")
    asked = [f"{name}-{offer.flavour}.lifeline" for name in offer.classes]
    if target.name not in asked:
        problems.append(f"{target} is for devices that ask for {' or '.join(asked)}")
    for piece in offer.pieces:
        path = target.parent / piece.path
        if not path.is_file() or path.stat().st_size != piece.stored:
            problems.append(f"{path} is missing or has another length than was signed")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != piece.stored_sha256:
            problems.append(f"{path} is not what was signed")
    return problems


# -- reading, by docs/lifeline.md and as strictly as a device ---------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """One `piece` line."""

    offset: int
    length: int
    sha256: str
    path: str
    stored: int
    stored_sha256: str


@dataclass(frozen=True)
class Offer:
    """What a file says. Which classes, flavours and sizes fit, only a device knows."""

    number: int
    issued: int
    not_after: int
    classes: tuple[str, ...]
    flavour: str
    version: str
    root_hash: str
    downgrade: bool
    pieces: tuple[Piece, ...]


def read(raw: bytes) -> Offer:
    """The file, parsed. Raises `LifelineError` with the sentence that says why every device would refuse it."""
    if len(raw) > LIMIT:
        raise LifelineError(f"The file has {len(raw)} bytes, devices read {LIMIT}: choose larger pieces")
    if re.search(rb"[^\n\x20-\x7e]", raw):
        raise LifelineError("The file holds other bytes than text")
    first, *lines = raw.decode("ascii").split("\n")
    if first != FIRST_LINE:
        raise LifelineError(f"The first line is not '{FIRST_LINE}'")
    if demand := next((line for line in lines if line.startswith("needs ")), None):
        raise LifelineError(f"The file {demand}, which no reader of format 1 has")
    values = {key: _only(lines, key) for key in ONCE}
    issued, not_after = _number(values["issued"], "issued"), _number(values["not-after"], "not-after")
    if issued > not_after:
        raise LifelineError("The file ran out before it was issued")
    if not VERSION.fullmatch(values["version"]):
        raise LifelineError(f"{values['version']!r} is no version of the form YYYY.MM.N")
    return Offer(
        number=_number(values["number"], "number", least=1),
        issued=issued,
        not_after=not_after,
        classes=tuple(values["class"].split()) or _missing("class"),
        flavour=_word(values["flavour"], "flavour"),
        version=values["version"],
        root_hash=_hash(values["root-hash"], "root hash"),
        downgrade=values["downgrade"] == "yes",
        pieces=tuple(piece for role in ROLES for piece in _artifact(lines, role)),
    )


def _only(lines: list[str], key: str) -> str:
    """The value of the one line with a key; empty where there is none."""
    found = [line.removeprefix(f"{key} ") for line in lines if line.startswith(f"{key} ")]
    if len(found) > 1:
        raise LifelineError(f"The file says '{key}' more than once")
    return found[0] if found else ""


def _missing(what: str) -> NoReturn:
    raise LifelineError(f"The file has no {what}")


def _word(text: str, what: str) -> str:
    return text if text and " " not in text else _missing(f"{what} of one word")


def _number(text: str, what: str, least: int = 0) -> int:
    if not NUMBER.fullmatch(text) or int(text) < least:
        raise LifelineError(f"{what} is {text!r}: 1 to 15 digits, no zero before them, at least {least}")
    return int(text)


def _hash(text: str, what: str) -> str:
    if not HASH.fullmatch(text):
        raise LifelineError(f"The {what} {text!r} has not 64 hexadecimal digits in small letters")
    return text


def _artifact(lines: list[str], role: str) -> list[Piece]:
    """The pieces of a role, which make its whole without a gap."""
    size, _, digest = _only(lines, f"whole {role}").partition(" ")
    length = _number(size, f"The length of the {role}", least=1)
    _hash(digest, f"hash of the {role}")
    if role == "uki" and length > UKI_LIMIT:
        raise LifelineError(f"The uki has {length} bytes, there is room for {UKI_LIMIT}")
    pieces = [_piece(line.split()[2:8], role) for line in lines if line.startswith(f"piece {role} ")]
    expected = 0
    for piece in pieces:
        if piece.offset != expected or piece.offset % 4096:
            raise LifelineError(f"The pieces of the {role} leave a gap at {expected}")
        expected += piece.length
    if expected != length:
        raise LifelineError(f"The pieces of the {role} do not make the whole: {expected} bytes of {length}")
    return pieces


def _piece(words: list[str], role: str) -> Piece:
    if len(words) < 6:
        raise LifelineError(f"A piece of the {role} is not described")
    offset, length, sha256, path, stored, stored_sha256 = words
    parts = path.split("/")
    if not re.fullmatch(r"[A-Za-z0-9._/-]+", path) or ".." in path or "" in parts or "." in parts:
        raise LifelineError(f"A piece of the {role} has a name that is not allowed: {path!r}")
    what = f"A number of a piece of the {role}"
    piece = Piece(_number(offset, what), _number(length, what, 1), _hash(sha256, "hash"), path,
                  _number(stored, what, 1), _hash(stored_sha256, "hash"))  # fmt: skip
    if max(piece.length, piece.stored) > PIECE_LIMIT:
        raise LifelineError(f"A piece of the {role} is larger than {PIECE_LIMIT} bytes")
    return piece


# -- writing ----------------------------------------------------------------------------------------------------------


def _next(target: Path, wanted: int, now: float) -> int:
    last = 0
    if target.exists():
        text = target.read_text("ascii", "replace")
        found = re.search(r"(?m)^number ([0-9]{1,15})$", text)
        if found is None:
            raise LifelineError(f"{target} is there and has no number; move it away")
        last = int(found[1])
        issued = re.search(r"(?m)^issued ([0-9]{1,15})$", text)
        if issued and int(issued[1]) > now:
            raise LifelineError(
                f"{target} was issued {int(issued[1]) - int(now)} seconds after now: one of two clocks is wrong. "
                f"Set this one; if it is right, move the file away and publish with --number {last + 1}"
            )
    if wanted and wanted <= last:
        raise LifelineError(f"Number {wanted} was published already ({last} is the last one); devices would refuse it")
    if (number := wanted or last + 1) > HIGHEST:
        raise LifelineError(f"Number {number} has more than 15 digits; every device would refuse it")
    return number


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
    read(text.encode())  # what devices would refuse is not signed
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
@click.option("--number", type=click.IntRange(1, HIGHEST), default=None, help="Default: one more than the last.")
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
