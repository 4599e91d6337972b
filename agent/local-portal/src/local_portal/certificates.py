"""The portal's certificates as the running service sees them: where they are, what they say, when they are due.

Nothing here imports the cryptography package: `authority` issues in a short-lived process of its own, so that the
service, which lives for months, does not carry several MiB for an act of once a month.
"""

from __future__ import annotations

import hashlib
import json
import ssl
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from local_portal import child
from local_portal.names import Names

SANE_CLOCK = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
"""No appliance ran this program before: an earlier clock has never been set."""
LEAF_DAYS = 90
RENEW_DAYS = 30
UNSET_CLOCK_DAYS = 800
"""A leaf made under an unset clock must hold for browsers whose clock is right; replaced once the clock is set."""
DAY = 86400


class CertificateError(RuntimeError):
    """Certificates that cannot be made or read; the message says which file and what to do."""


@dataclass(frozen=True)
class Order:
    """What the authority is asked for. Times are seconds since the epoch (UTC)."""

    directory: str
    names: Names
    now: float


@dataclass(frozen=True)
class Leaf:
    """What the current server certificate says; kept beside it as JSON."""

    names: Names
    wanted: Names
    not_before: float
    not_after: float
    authority: str
    """Fingerprint of the CA that signed it."""
    clock_set: bool
    """Whether the clock was plausible when it was made."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names and addresses the CA may not vouch for."""
        held = {*self.names.dns, *self.names.addresses}
        return tuple(name for name in (*self.wanted.dns, *self.wanted.addresses) if name not in held)


@dataclass(frozen=True)
class Certificates:
    """The files in the state directory."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The CA certificate (PEM), for anybody."""
        return self.directory / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The CA's private key, for the service user only."""
        return self.directory / "ca.key"

    @property
    def chain(self) -> Path:
        """The server certificate and its private key in one file, so that they change together."""
        return self.directory / "server.pem"

    @property
    def description(self) -> Path:
        """What `chain` holds, as JSON."""
        return self.directory / "server.json"

    def leaf(self) -> Leaf | None:
        """The current leaf; None when there is none that can be read."""
        try:
            return msgspec.json.decode(self.description.read_bytes(), type=Leaf)
        except (OSError, msgspec.MsgspecError, ValueError):
            return None

    def fingerprint(self) -> str:
        """SHA-256 of the CA certificate, as browsers show it. Raises `CertificateError` when there is none."""
        return fingerprint(self.ca)

    def due(self, names: Names, now: float) -> str:
        """Why a new leaf is needed; empty when the present one will do."""
        leaf = self.leaf()
        if leaf is None or not self.chain.exists() or not self.ca.exists() or not self.ca_key.exists():
            return "there is no complete certificate"
        if leaf.authority != self.fingerprint():
            return "the CA has changed"
        if set(names.dns) - set(leaf.wanted.dns) or set(names.addresses) - set(leaf.wanted.addresses):
            return "the appliance has a new name or address"
        if now < SANE_CLOCK:
            return ""
        if not leaf.clock_set:
            return "the clock has been set since"
        if now >= leaf.not_after - RENEW_DAYS * DAY:
            return f"it expires within {RENEW_DAYS} days"
        if now < leaf.not_before:
            return "it was made under a clock that ran ahead"
        return ""

    def ensure(self, names: Names, now: float) -> str:
        """Issue what is due and say why; empty when nothing was. Raises `CertificateError` when it cannot be done."""
        try:
            reason = self.due(names, now)
        except CertificateError:
            reason = "the CA certificate is unreadable"
        if reason:
            _issue(Order(str(self.directory), names, now))
        return reason


def fingerprint(path: Path) -> str:
    """SHA-256 of the first certificate in a PEM file, in pairs with colons. Raises `CertificateError`."""
    try:
        pem = path.read_text()
        end = "-----END CERTIFICATE-----"
        first = pem[pem.index("-----BEGIN CERTIFICATE-----") : pem.index(end) + len(end)]
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest().upper()
    except (OSError, ValueError) as error:
        raise CertificateError(f"{path}: no certificate can be read: {error}") from error
    return ":".join(digest[place : place + 2] for place in range(0, len(digest), 2))


def _issue(order: Order) -> None:
    try:
        child.run("local_portal.authority", json.dumps(asdict(order)).encode())
    except child.ChildError as error:
        raise CertificateError(f"{order.directory}: no certificate could be issued: {error}") from error
