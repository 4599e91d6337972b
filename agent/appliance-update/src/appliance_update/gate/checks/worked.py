"""What ran before the update still runs: services beyond the required ones that have failed since."""

from __future__ import annotations

from appliance_update.config import Config
from appliance_update.gate import baseline, systemd
from appliance_update.gate.checks import Hopeless
from appliance_update.gate.checks.units import PROPERTIES, judged
from appliance_update.host import Host


def check(config: Config, host: Host) -> str | None:
    """Only a service that has failed, or keeps failing, counts: a release may drop one, or start it on demand."""
    before = baseline.before_update(config, host)
    units = [unit for unit in before.units if unit not in config.gate.units] if before else []
    if before is None or not units:
        return None
    try:
        states = systemd.show(units, *PROPERTIES)
    except systemd.NoAnswer as error:
        return str(error)
    for unit in units:
        facts = states.get(unit, {"LoadState": "not-found"})
        if facts.get("LoadState") == "loaded":
            sentence = judged(unit, facts)
            if isinstance(sentence, Hopeless):
                return Hopeless(f"{sentence}; it ran under {before.version}")
    return None
