"""No service has failed, and those the appliance is made for are running."""

from __future__ import annotations

from typing import Any

from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, as_kind, count, some
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

SERVICE, PATH, MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
TROUBLED = ["failed", "auto-restart", "auto-restart-queued"]
"""A crash loop is hardly ever caught in the state `failed`: between two attempts it waits for its restart."""

ABSENT = ("not there", "")


class FailedUnits(Check):
    """Asks the service manager, which is the one that knows."""

    id = "failed-units"
    title = "All services are running"
    reads = "The service manager over D-Bus (ListUnitsFiltered, ListUnitsByPatterns)"
    citations = (hipaa("164.308(a)(1)(ii)(B)", PARTIAL), soc2("CC7.2", PARTIAL), soc2("A1.2", PARTIAL))
    does_not_prove = "That a running service does what it should: the portal may run and still show an error page."
    remedy = "Restart the box once. If the service fails again, send its log (System page) to the provider."

    def run(self, host: Host) -> Finding:
        """Failed or endlessly restarting units first, then required units that are not active."""
        inputs = Inputs(host)
        required = host.config.checks.required_units
        troubled = _units(inputs, "ListUnitsFiltered", TROUBLED)
        states = {
            name: (active, sub) for name, active, sub in _units(inputs, "ListUnitsByPatterns", [], list(required))
        }
        facts = {"services that must run": ", ".join(required)}
        if troubled:
            facts["in trouble"] = ", ".join(f"{name} ({sub})" for name, _, sub in troubled)
            names = some([name for name, _, _ in troubled])
            return inputs.failed(
                f"{count(len(troubled), 'service')} failed or restarting over and over: {names}.", facts
            )
        missing = [name for name in required if states.get(name, ABSENT)[0] not in ("active", "reloading")]
        starting = [name for name in missing if states.get(name, ABSENT)[1].startswith("start")]
        if missing and missing == starting:
            return inputs.unknown(f"Still starting: {some(starting)}.", facts)
        if missing:
            shown = some([f"{name} ({states.get(name, ABSENT)[0]})" for name in missing])
            return inputs.failed(f"Not running although the appliance needs it: {shown}.", facts)
        return inputs.passed(f"No service has failed, and {len(required)} of {len(required)} needed ones run.", facts)


def _units(inputs: Inputs, method: str, *arguments: Any) -> list[tuple[str, str, str]]:
    """Name, active state and sub state of each unit in the answer."""
    source = f"D-Bus {MANAGER}.{method}"
    found = []
    for unit in inputs.call(SERVICE, PATH, MANAGER, method, *arguments):
        fields = as_kind(unit, (list, tuple), source)
        if len(fields) < 5 or not all(isinstance(fields[index], str) for index in (0, 3, 4)):
            raise CheckError(f"{source} answered something that is no list of units", source)
        found.append((fields[0], fields[3], fields[4]))
    return found
