"""No certificate the box depends on runs out soon."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, some, span
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

if TYPE_CHECKING:
    from cryptography import x509

DAY = 86400.0
MOST_CERTIFICATES = 20
AUTHORITY = re.compile(r"(^|[-_.])(ca|root)([-_.]|$)", re.IGNORECASE)
"""File names of authorities, where only the name can tell."""


@dataclass(frozen=True)
class Validity:
    """From when to when a certificate holds, in seconds since the epoch. `authority`: it may sign others."""

    path: str
    subject: str
    not_before: float
    not_after: float
    authority: bool


class CertificateExpiry(Check):
    """The portal's leaf, the site's own certificate authority, and what the site adds to the list."""

    id = "certificate-expiry"
    title = "Certificates are valid"
    reads = "The portal's certificates by the collector (root), and the PEM files the site lists"
    citations = (hipaa("164.312(e)(2)(ii)", PARTIAL), hipaa("164.312(d)", PARTIAL), soc2("CC6.7", PARTIAL))
    does_not_prove = "That browsers on site trust the certificate, or that its key is kept secret."
    remedy = "The portal renews its certificate by itself: restart the box. A certificate authority needs the provider."

    def run(self, host: Host) -> Finding:
        """Each one valid now, and for long enough."""
        inputs = Inputs(host)
        settings = host.config.checks
        found, troubles = _collected(inputs)
        for path in settings.certificates:
            found += _in_file(inputs, path)
        now = host.clock.read().wall
        facts = {f"{one.path}: {one.subject}"[:200]: f"until {_day(one.not_after)}" for one in found}
        wrongs = []
        for one in found:
            least = settings.ca_min_days if one.authority else settings.certificate_min_days
            wrongs += _wrong(one, now, least)
        if wrongs:
            return inputs.failed(f"{some(wrongs, 3)}.", facts)
        if troubles:
            raise CheckError(f"not every certificate can be read: {some(troubles, 3)}", "certificates")
        if not found:
            return inputs.unknown("No certificate was found to look at: the portal may not have made its own yet.")
        soonest = min(found, key=lambda one: one.not_after)
        return inputs.passed(
            f"All {len(found)} certificates are valid, the first to end for {span(soonest.not_after - now)}.", facts
        )


def _collected(inputs: Inputs) -> tuple[list[Validity], list[str]]:
    """What the collector saw of the portal's certificates, and what it could not read."""
    certificates = inputs.privileged().certificates
    inputs.note("certificates, by the collector", repr(certificates))
    troubles = [f"{one.path}: {one.error}" for one in certificates if one.error]
    readable = [one for one in certificates if not one.error]
    # The collector tells no purpose: a file named for the authority is held to the authority's longer term.
    found = [
        Validity(
            one.path, one.subject, one.not_before, one.not_after, bool(AUTHORITY.search(one.path.rsplit("/", 1)[-1]))
        )
        for one in readable
    ]
    return found, troubles


def _in_file(inputs: Inputs, path: str) -> list[Validity]:
    """Every certificate in a PEM file. Raises `CheckError` when there is none or one cannot be read."""
    from cryptography import x509  # costs megabytes of memory, and most boxes declare no files

    parts = inputs.bytes(path).split(b"-----BEGIN CERTIFICATE-----")[1:]
    if not parts or len(parts) > MOST_CERTIFICATES:
        raise CheckError(f"{path} holds {len(parts)} certificates; 1 to {MOST_CERTIFICATES} can be read", path)
    found = []
    for part in parts:
        try:
            certificate = x509.load_pem_x509_certificate(b"-----BEGIN CERTIFICATE-----" + part)
            found.append(_validity(path, certificate))
        except (ValueError, TypeError, OverflowError) as error:
            raise CheckError(f"{path} holds a certificate that cannot be read: {error}", path) from error
    return found


def _validity(path: str, certificate: x509.Certificate) -> Validity:
    from cryptography import x509

    try:
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        authority = False
    return Validity(
        path,
        certificate.subject.rfc4514_string(),
        _moment(certificate, "before"),
        _moment(certificate, "after"),
        authority,
    )


def _moment(certificate: x509.Certificate, which: str) -> float:
    """cryptography 42 added times with a zone and deprecated the naive ones, which were in UTC."""
    aware = getattr(certificate, f"not_valid_{which}_utc", None)
    naive = aware or getattr(certificate, f"not_valid_{which}").replace(tzinfo=datetime.UTC)
    return float(naive.timestamp())


def _wrong(one: Validity, now: float, least_days: float) -> list[str]:
    name = one.subject or one.path
    if now < one.not_before:
        return [f"The certificate of {name} is not valid before {_day(one.not_before)}"]
    if now >= one.not_after:
        return [f"The certificate of {name} ran out on {_day(one.not_after)}"]
    left = (one.not_after - now) / DAY
    return [f"The certificate of {name} runs out in {left:.0f} days"] if left < least_days else []


def _day(moment: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return f"{moment:.0f} s after 1970"
