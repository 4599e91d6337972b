"""The appliance itself: its services, clock, enrolment, certificate, and who did what on this portal."""

from __future__ import annotations

import asyncio
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from appliance_protocol.local_models import AgentStatus, ScannerStatus
from local_portal import __version__
from local_portal.certificates import CertificateError, Certificates, fingerprint
from local_portal.web import portal_of, render


def os_release(path: Path) -> dict[str, str]:
    """The image's name and version (os-release); empty when it cannot be read."""
    try:
        lines = path.read_text("utf-8", "replace")[:16384].splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def _prints(certificates: Certificates) -> dict[str, str]:
    found = {}
    for name, path in (("ca", certificates.ca), ("leaf", certificates.chain)):
        try:
            found[name] = fingerprint(path)
        except CertificateError:
            found[name] = ""
    return found


async def system(request: Request) -> Response:
    """Everything a technician asks for on the telephone."""
    portal = portal_of(request)
    agent, scanner = await asyncio.gather(
        portal.agent.read("/v1/status", AgentStatus), portal.scanner.read("/v1/status", ScannerStatus))
    return render(
        request, "system.html", agent=agent, scanner=scanner, updater=portal.updater.status(),
        leaf=portal.certificates.leaf(), prints=_prints(portal.certificates), names=portal.own_names(),
        release=os_release(Path(portal.config.os_release)), version=__version__, events=portal.store.events(25),
        config=portal.config,
    )


ROUTES = [Route("/system", system)]
