"""The local portal answers on its own socket, over TLS."""

from __future__ import annotations

import ssl
import urllib.request

from appliance_update.config import Config
from appliance_update.host import Host

TIMEOUT = 10.0


def check(config: Config, host: Host) -> str | None:
    """A GET of the health page; 200 with the word ok. It stays on this machine, so no proxy is asked."""
    gate = config.gate
    if not gate.portal:
        return None
    if not gate.portal.startswith(("https://", "http://")):
        return f"The gate's portal address {gate.portal!r} is not a web address"
    context = ssl.create_default_context(cafile=gate.portal_ca or None)
    if not gate.portal_ca:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(gate.portal, timeout=TIMEOUT) as response:
            said = response.read(200).decode(errors="replace").strip()
    except (OSError, ValueError) as error:
        return f"The portal does not answer at {gate.portal}: {error}"
    return None if "ok" in said.lower() else f"The portal answers {said[:80]!r} at {gate.portal}, not ok"
