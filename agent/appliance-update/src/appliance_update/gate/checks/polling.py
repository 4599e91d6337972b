"""A system that looked for updates still does: else it would be the last one this device ever gets."""

from __future__ import annotations

from appliance_update.config import Config
from appliance_update.gate import baseline
from appliance_update.gate.checks import Hopeless
from appliance_update.host import Host


def check(config: Config, host: Host) -> str | None:
    """Compared with the configuration that was in force before the update."""
    before = baseline.before_update(config, host)
    if before is None or not before.repository or config.repository:
        return None
    return Hopeless(
        f"No repository is configured; {before.version} looked for updates at {before.repository}. "
        "A system that never looks can never be mended"
    )
