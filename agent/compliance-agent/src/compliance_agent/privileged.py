"""Facts about the box that only root can read, and how the unprivileged agent gets them.

`compliance-agent collect` runs as root, started by a timer or on demand, writes one file and ends. The agent and its
checks read that file and nothing else with privilege. It holds no secrets: no password hashes, no private keys.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from appliance_protocol.clock import ClockReading
from appliance_protocol.wire import WireError, decode
from compliance_agent.errors import CheckError

FACTS_FILE = "/run/compliance-agent-facts/facts.json"
MAX_FACTS_FILE = 4 << 20
"""Largest facts file that is read, in bytes."""
UNIT = "compliance-agent-collect.service"
MAX_AGE = 900.0
"""Seconds after which facts are too old to be the ground of a verdict; the timer collects every five minutes."""


class PasswordState(enum.StrEnum):
    """What the shadow file says of an account's password; the hash itself never leaves the collector."""

    SET = "set"
    LOCKED = "locked"
    """Starts with `!` or `*`: no password opens the account (keys still may)."""
    EMPTY = "empty"
    """Anybody may log in without one."""
    UNKNOWN = "unknown"
    """Not in the shadow file."""


@dataclass(frozen=True)
class Reading:
    """The output of one command or the contents of one file, or why there is none."""

    source: str
    """The command line, or the file's path."""
    output: str = ""
    error: str = ""
    """Empty when the reading is good; else a sentence. A reading with an error never counts as an empty one."""

    def text(self) -> str:
        """The output. Raises `CheckError` when the reading failed."""
        if self.error:
            raise CheckError(f"{self.source}: {self.error}", self.source)
        return self.output


@dataclass(frozen=True)
class AuthorizedKey:
    """One line of an authorized_keys file."""

    file: str
    fingerprint: str
    """`SHA256:` and base64 without padding, as `ssh-keygen -lf` shows it; empty when the line cannot be read."""
    kind: str = ""
    """`ssh-ed25519` and the like."""
    comment: str = ""
    options: str = ""
    error: str = ""


@dataclass(frozen=True)
class Account:
    """One line of /etc/passwd with what shadow says of it."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    password: PasswordState
    groups: tuple[str, ...] = ()
    """Supplementary groups by /etc/group."""
    keys: tuple[AuthorizedKey, ...] = ()
    error: str = ""
    """Why the keys could not all be read; empty when they were."""


@dataclass(frozen=True)
class Listener:
    """One socket that accepts from outside the process: TCP in LISTEN, or UDP bound and unconnected."""

    protocol: str
    """`tcp`, `tcp6`, `udp` or `udp6`."""
    address: str
    port: int
    uid: int
    program: str = ""
    """The process's name (comm), empty when it could not be told."""
    unit: str = ""
    """The systemd unit by the process's cgroup, empty when it could not be told."""


@dataclass(frozen=True)
class EspFacts:
    """The EFI system partition as mounted. `files` are the UKIs in EFI/Linux and their sizes in bytes."""

    mount_point: str = ""
    total: int = 0
    free: int = 0
    files: dict[str, int] = field(default_factory=dict)
    fallback_present: bool = False
    """Whether EFI/BOOT/BOOTX64.EFI (or BOOTAA64.EFI) is there."""
    error: str = ""


@dataclass(frozen=True)
class CertificateFacts:
    """One certificate file. Times are seconds since the epoch (UTC)."""

    path: str
    subject: str = ""
    not_before: float = 0.0
    not_after: float = 0.0
    error: str = ""
    digest: str = ""
    """`sha256:` and the hexadecimal digest of the file, by which the next run knows it again."""


@dataclass(frozen=True)
class PrivilegedFacts:
    """Everything the collector saw in one run."""

    collected: ClockReading
    readings: dict[str, Reading] = field(default_factory=dict)
    """By name: `nftables` (nft -j list ruleset), `sshd` (sshd -T), `sudoers` (files)."""
    accounts: tuple[Account, ...] = ()
    accounts_error: str = ""
    listeners: tuple[Listener, ...] = ()
    listeners_error: str = ""
    esp: EspFacts = field(default_factory=EspFacts)
    certificates: tuple[CertificateFacts, ...] = ()
    format: int = 1

    def reading(self, name: str) -> Reading:
        """The reading called `name`. Raises `CheckError` when the collector did not take it."""
        try:
            return self.readings[name]
        except KeyError:
            raise CheckError(f"{UNIT} did not collect {name!r}; it is older than this check", name) from None


def read_facts(
    now: ClockReading, root: Path = Path("/"), max_age: float = MAX_AGE, *, path: str = FACTS_FILE
) -> PrivilegedFacts:
    """The facts on file, if they are of this boot and at most `max_age` seconds old by the monotonic clock.

    Raises `CheckError` that says what is wrong and what to do.
    """
    try:
        with (root / path.lstrip("/")).open("rb") as file:
            document = file.read(MAX_FACTS_FILE + 1)
    except OSError as error:
        raise _unavailable(f"cannot be read: {error.strerror or error}") from error
    try:
        facts = decode(document, PrivilegedFacts, limit=MAX_FACTS_FILE)
    except WireError as error:
        raise _unavailable(f"cannot be understood: {error}") from error
    if facts.collected.boot_id != now.boot_id:
        raise _unavailable("is from before the last boot")
    age = now.monotonic - facts.collected.monotonic
    if age > max_age:
        raise _unavailable(f"is {age:.0f} s old, at most {max_age:.0f} s count")
    return facts


def _unavailable(what: str) -> CheckError:
    return CheckError(f"{FACTS_FILE} {what}; look at `journalctl -u {UNIT}`", FACTS_FILE)
