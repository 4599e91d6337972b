"""Becoming a device of a site: by the `enrol` command, or by a credential at the first start."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

from appliance_protocol.device_api import EnrolmentReply, EnrolmentRequest, Hardware
from compliance_agent import __version__
from compliance_agent.central import Central
from compliance_agent.checks.base import Clock
from compliance_agent.config import CentralConfig
from compliance_agent.facts.release import read_release
from compliance_agent.identity import Enrolment, Identity, IdentityError, Invitation, hostname, mac_addresses

DMI = Path("/sys/class/dmi/id")


def enrol(config: CentralConfig, identity: Identity, invitation: Invitation, clock: Clock) -> Enrolment:
    """Redeem an invitation and keep what came of it. Safe to repeat: the same key gets the same answer.

    Blocks. Raises `CentralError` when the server is not reached or says no, `IdentityError` for a bad certificate or
    an unwritable state directory.
    """
    check_authority(invitation.ca)
    key = identity.key()
    request = EnrolmentRequest(
        code=invitation.code.strip(),
        public_key=key.public.text,
        hostname=hostname(),
        release=read_release(),
        agent_version=__version__,
        hardware=Hardware(_dmi("sys_vendor"), _dmi("product_name"), _dmi("product_serial")),
        mac_addresses=mac_addresses(),
    )
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as authority:
        authority.write(invitation.ca)
        authority.flush()
        central = Central(config, invitation.url, authority.name if invitation.ca else "", key)
        try:
            reply = central.enrol(request)
        finally:
            central.close()
    try:
        return identity.save(_enrolment(reply, invitation.url, clock.read().wall), invitation.ca)
    except OSError as error:
        raise IdentityError(f"{identity.state}: the enrolment cannot be kept: {error.strerror or error}") from error


def check_authority(pem: str) -> None:
    """Raises `IdentityError` unless `pem` is empty or holds certificates."""
    if not pem:
        return
    try:
        ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise IdentityError(f"the authority's certificate is not PEM: {error}") from error


def _enrolment(reply: EnrolmentReply, url: str, at: float) -> Enrolment:
    return Enrolment(
        device_id=reply.device_id,
        site_id=reply.site_id,
        site_name=reply.site_name,
        url=url,
        server_keys=reply.server_keys,
        enrolled_at=at,
        checkin_interval=reply.checkin_interval,
    )


def _dmi(name: str) -> str:
    try:
        return (DMI / name).read_text(errors="replace").strip()[:100]
    except OSError:
        return ""
