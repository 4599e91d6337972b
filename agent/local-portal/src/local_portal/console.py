"""What stands on the appliance's own screen and in the journal: how to reach the portal, and how to claim it."""

from __future__ import annotations

import os
from pathlib import Path

from local_portal.certificates import CertificateError
from local_portal.portal import Portal

FILE = "console.issue"
"""In the runtime directory; /run/issue.d/local-portal.issue is a link to it, so that getty shows it above the login."""


def text(portal: Portal, port: int = 443) -> str:
    """The lines for the screen. The claim code is in them until it has been used."""
    suffix = "" if port == 443 else f":{port}"
    names = portal.own_names()
    reachable = [address for address in names.addresses
                 if not address.startswith(("127.", "::1", "fe80:", "169.254.")) and ":" not in address]
    lines = ["Local portal", f"  open       https://appliance.local{suffix}/"]
    lines += [f"             https://{address}{suffix}/" for address in reachable[:4]]
    try:
        pairs = portal.certificates.fingerprint().split(":")
        lines += [f"  CA SHA-256 {':'.join(pairs[:16])}", f"             {':'.join(pairs[16:])}"]
    except CertificateError:
        lines.append("  CA         there is no readable CA certificate")
    code = portal.store.claim_code()
    if code is not None:
        lines += [f"  claim code {code}", "             Nobody has claimed this appliance yet; the code works once."]
    return "\n".join(lines) + "\n"


def publish(portal: Portal, port: int = 443) -> str:
    """Bring the console's file up to date; returns the text when it changed, else nothing.

    Raises `OSError` when the runtime directory cannot be written.
    """
    path = portal.config.runtime / FILE
    wanted = text(portal, port)
    try:
        if path.read_text() == wanted:
            return ""
    except (OSError, UnicodeDecodeError):
        pass
    _write(path, wanted)
    return wanted


def _write(path: Path, content: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(content)
    temporary.rename(path)
