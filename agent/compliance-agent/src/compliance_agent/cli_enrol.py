"""`compliance-agent enrol`: this device becomes a member of a site."""

from __future__ import annotations

from pathlib import Path

import click

from compliance_agent.answers import FAILED, OK, as_text, fail
from compliance_agent.central import CentralError, Refused
from compliance_agent.config import Config
from compliance_agent.enrolling import enrol as redeem
from compliance_agent.facts.clock import SystemClock
from compliance_agent.identity import Identity, IdentityError, Invitation, become_owner


def enrol(config: Config, url: str, code: str, ca_file: Path | None, again: bool, as_json: bool) -> int:
    """Enrol and show; the exit code."""
    identity = Identity(config.state)
    try:
        ca = ca_file.read_text() if ca_file else ""
        invitation = Invitation(url, code, ca)
        become_owner(config.state)
        known = identity.enrolment()
        if known is not None and not again:
            site = known.site_name or known.site_id
            fail(f"this is device {known.device_id} of {site} already; --again to change that")
        enrolment = redeem(config.central, identity, invitation, SystemClock())
    except OSError as error:
        fail(f"{ca_file}: {error.strerror or error}")
    except UnicodeDecodeError:
        fail(f"{ca_file}: is not a PEM file")
    except Refused as error:
        fail(str(error), FAILED)
    except (CentralError, IdentityError) as error:
        fail(str(error))
    if as_json:
        click.echo(as_text(enrolment))
    else:
        site = enrolment.site_name or enrolment.site_id
        click.echo(f"Enrolled: device {enrolment.device_id} of {site} at {enrolment.url}")
    return OK
