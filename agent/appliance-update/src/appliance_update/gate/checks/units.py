"""The required units are active, and stay so."""

from __future__ import annotations

from collections.abc import Mapping

from appliance_update.config import Config
from appliance_update.gate import systemd
from appliance_update.gate.checks import Hopeless
from appliance_update.host import Host

RESTARTS = 4
"""Restarts in this boot after which a unit is not starting but failing again and again."""

PROPERTIES = ("LoadState", "ActiveState", "SubState", "NRestarts", "Result")


def check(config: Config, host: Host) -> str | None:
    """One question to systemd for all of them; a unit that systemd does not know is not active."""
    if not config.gate.units:
        return None
    try:
        states = systemd.show(config.gate.units, *PROPERTIES)
    except systemd.NoAnswer as error:
        return str(error)
    found = [sentence for unit in config.gate.units if (sentence := judged(unit, states.get(unit)))]
    return next((sentence for sentence in found if isinstance(sentence, Hopeless)), found[0] if found else None)


def judged(unit: str, facts: Mapping[str, str] | None) -> str | None:
    """What is wrong with one unit: nothing, something that may come right, or something `Hopeless`."""
    if facts is None or facts.get("LoadState", "loaded") == "not-found":
        return Hopeless(f"{unit} is not known to systemd")
    restarts = int(facts.get("NRestarts") or 0)
    state = f"{facts.get('ActiveState')}/{facts.get('SubState')}"
    after = f" after {restarts} restarts" if restarts else ""
    if restarts >= RESTARTS:
        return Hopeless(f"{unit} fails again and again: it is {state}{after}")
    if facts.get("ActiveState") == "failed":  # one that systemd will start again is `activating`
        return Hopeless(f"{unit} has failed ({facts.get('Result') or 'no reason given'}){after}; nothing restarts it")
    return None if facts.get("ActiveState") == "active" else f"{unit} is {state}{after}"
