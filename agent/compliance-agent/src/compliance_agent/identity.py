"""Who this device is: its own Ed25519 key, and what Central Command made of it at enrolment.

Both live on the state partition only, survive every update and rollback, and are never in an image:
`device.key`, `enrolment.json` and `central-ca.pem` in the state directory. The running service looks at
`enrolment.json` again and again, so that an enrolment takes effect without a restart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import socket
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from appliance_protocol.keys import KeyFormatError, PrivateKey, PublicKey
from appliance_protocol.wire import WireError, canonical, decode

KEY_FILE = "device.key"
ENROLMENT_FILE = "enrolment.json"
CA_FILE = "central-ca.pem"
CREDENTIAL = "compliance-agent.enrolment"
MAX_CREDENTIAL = 64 << 10
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class IdentityError(RuntimeError):
    """The device's key or enrolment cannot be read, made or used; the message says which file and what to do."""


@dataclass(frozen=True)
class Enrolment:
    """What the device knows of its place, as kept in `enrolment.json`."""

    device_id: str
    site_id: str
    site_name: str
    url: str
    server_keys: tuple[str, ...]
    enrolled_at: float
    ca_file: str = ""
    """PEM file of the authority that signed Central Command's certificate; empty takes the system's."""
    checkin_interval: int = 60

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """The server's keys. Raises `KeyFormatError`."""
        return tuple(PublicKey.from_text(text) for text in self.server_keys)


@dataclass(frozen=True)
class Invitation:
    """What a technician is given to enrol a device: where, with which one-time code, trusting which authority."""

    url: str
    code: str
    ca: str = ""
    """PEM text; empty takes the system's authorities."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        if not parts.hostname or not secure:
            raise IdentityError(f"{self.url[:200]!r} is not an https:// address of Central Command")
        if not self.code.strip():
            raise IdentityError("the enrolment code is empty; ask Central Command for a new one")


class Identity:
    """The identity files of one state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def key(self) -> PrivateKey:
        """The device's key, made when there is none yet. Raises `IdentityError`."""
        path = self.state / KEY_FILE
        try:
            if not path.exists():
                with self.lock():
                    if not path.exists():
                        PrivateKey.generate().save(path)
            return PrivateKey.load(path)
        except KeyFormatError as error:
            raise IdentityError(str(error)) from error
        except OSError as error:
            raise IdentityError(f"device key {path}: {error.strerror or error}") from error

    def enrolment(self) -> Enrolment | None:
        """What Central Command made of this device; None before the enrolment. Raises `IdentityError`."""
        path = self.state / ENROLMENT_FILE
        try:
            enrolment = decode(path.read_bytes(), Enrolment)
            if not enrolment.keys or not enrolment.device_id:
                raise IdentityError(f"{path}: names no device id or no server key; enrol the device again")
            return enrolment
        except FileNotFoundError:
            return None
        except OSError as error:
            raise IdentityError(f"{path}: {error.strerror or error}") from error
        except (WireError, KeyFormatError) as error:
            raise IdentityError(f"{path}: {error}; enrol the device again") from error

    def save(self, enrolment: Enrolment, ca: str) -> Enrolment:
        """Keep an enrolment, with the authority's certificate beside it. Raises `OSError`."""
        ca_file = ""
        if ca:
            ca_file = str(self.state / CA_FILE)
            write_atomically(self.state / CA_FILE, ca.encode(), 0o644)
        kept = dataclasses.replace(enrolment, ca_file=ca_file)
        write_atomically(self.state / ENROLMENT_FILE, canonical(kept), 0o600)
        return kept

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps the command line and the service from making a key, or enrolling, at the same time."""
        path = self.state / ".identity.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def credential() -> Invitation | None:
    """The invitation systemd passed in $CREDENTIALS_DIRECTORY; None when there is none. Raises `IdentityError`."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory, CREDENTIAL) if directory else None
    if path is None or not path.exists():
        return None
    try:
        with path.open("rb") as file:
            return read_invitation(file.read(MAX_CREDENTIAL + 1))
    except OSError as error:
        raise IdentityError(f"credential {CREDENTIAL}: {error.strerror or error}") from error


def read_invitation(document: bytes) -> Invitation:
    """An invitation in TOML: `url`, `code`, and `ca` when the authority is a private one. Raises `IdentityError`."""
    if len(document) > MAX_CREDENTIAL:
        raise IdentityError(f"credential {CREDENTIAL}: larger than {MAX_CREDENTIAL} bytes")
    try:
        return msgspec.convert(tomllib.loads(document.decode()), Invitation)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError, ValueError) as error:
        raise IdentityError(f"credential {CREDENTIAL}: {error}") from error


def write_atomically(path: Path, content: bytes, mode: int) -> None:
    """Replace a file so that a power cut leaves the old or the new one. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def become_owner(directory: Path) -> None:
    """Go on as the owner of the state directory when started as root, for good.

    What the command line writes then belongs to the service, and root follows no link that the service's user laid.
    Raises `IdentityError` when the directory is not there.
    """
    try:
        owner = directory.stat()
    except OSError as error:
        raise IdentityError(f"{directory}: {error.strerror}; was compliance-agent.service ever started?") from error
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


def mac_addresses() -> tuple[str, ...]:
    """The hardware addresses of the box's network interfaces, for people to recognise it by."""
    found = []
    for path in sorted(Path("/sys/class/net").glob("*/address")):
        with contextlib.suppress(OSError):
            address = path.read_text().strip().lower()
            if len(address) == 17 and address != "00:00:00:00:00:00":
                found.append(address)
    return tuple(found[:16])


def hostname() -> str:
    """The box's host name."""
    return socket.gethostname()[:253]
