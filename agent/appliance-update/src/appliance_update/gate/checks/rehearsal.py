"""This system can update itself: the rehearsal of this boot ended well."""

from __future__ import annotations

from appliance_update.config import Config
from appliance_update.gate import systemd
from appliance_update.gate.checks import Hopeless, slots
from appliance_update.host import Host
from appliance_update.rehearsal_report import of_this_boot

PROPERTIES = ("LoadState", "ActiveState", "SubState", "Result", "InvocationID")


def check(config: Config, host: Host) -> str | None:
    """The report decides; where there is none the unit is started, and asked after until it has ended."""
    unit = config.gate.rehearsal
    if not unit:
        return None
    report = of_this_boot(config, host)
    if report is not None:
        return None if report.passed else Hopeless(f"This system cannot update itself: {report.reason}")
    try:
        facts = systemd.show([unit], *PROPERTIES).get(unit, {"LoadState": "not-found"})
        if facts.get("LoadState", "loaded") == "not-found":
            return Hopeless(f"{unit} is not known to systemd")
        state = facts.get("ActiveState", "")
        if state == "failed":  # without a report it did not get so far as to judge
            words = systemd.last_words(facts.get("InvocationID", ""), 6).replace("\n", " | ")
            return Hopeless(f"{unit} broke ({facts.get('Result')}): {words or 'it left no word'}")
        if state == "inactive":
            if slots.check(config, host):  # it says so itself; what is not there yet must not fail the rehearsal
                return "The rehearsal waits for the slots"
            refused = systemd.start(unit, wait=False)
            return f"{unit} could not be started: {refused}" if refused else "The rehearsal has begun"
    except systemd.NoAnswer as error:
        return str(error)
    return "The rehearsal is under way"
