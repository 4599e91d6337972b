"""A hung system is restarted by its hardware."""

from __future__ import annotations

from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

SYSTEMD = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
OFF = (0, 2**64 - 1)
LONGEST = 600 * 10**6
"""Microseconds; a hang that lasts longer than this is an outage."""


class Watchdog(Check):
    """systemd feeds the hardware watchdog; when systemd hangs, the hardware resets the box."""

    id = "watchdog"
    title = "A hang ends in a restart"
    reads = "The service manager over D-Bus (RuntimeWatchdogUSec), and /sys/class/watchdog"
    citations = (hipaa("164.308(a)(7)(ii)(C)", PARTIAL), soc2("A1.2", PARTIAL))
    does_not_prove = "That the hardware really resets the box: nobody can try that without hanging it."
    remedy = "Call the provider: the release does not arm this machine's watchdog."

    def run(self, host: Host) -> Finding:
        """Armed by the service manager, on a device that is there and active."""
        inputs = Inputs(host)
        timeout = inputs.property(*SYSTEMD, "RuntimeWatchdogUSec", int)
        devices = [name for name in inputs.names("/sys/class/watchdog") if name.startswith("watchdog")]
        states = {name: self._state(inputs, name, timeout) for name in devices}
        facts = {"timeout s": f"{timeout / 1e6:g}" if timeout not in OFF else "off"} | states
        if not devices:
            return inputs.failed(
                "This machine has no watchdog that the system knows: a hang lasts until somebody comes.", facts
            )
        if timeout in OFF or timeout < 0 or "active" not in states.values():
            return inputs.failed("The watchdog is not armed: a hang lasts until somebody comes.", facts)
        if timeout > LONGEST:
            return inputs.failed(
                f"The watchdog waits {timeout / 6e7:.0f} minutes before it restarts a hung box.", facts
            )
        return inputs.passed(f"A hang of {timeout / 1e6:g} s ends in a restart.", facts)

    def _state(self, inputs: Inputs, name: str, timeout: int) -> str:
        """Whether a device runs: by its own word, or, in a kernel that does not show it, by systemd's last ping."""
        path = f"/sys/class/watchdog/{name}/state"
        state = inputs.text_if_there(path, 4096)
        if state is None:
            pinged = inputs.property(*SYSTEMD, "WatchdogLastPingTimestamp", int) / 1e6
            age = inputs.host.clock.read().wall - pinged
            return "active" if pinged > 0 and abs(age) <= max(timeout / 1e6, 1.0) else "inactive"
        if state.strip() not in ("active", "inactive"):
            raise CheckError(f"{path} tells a state that is none: {state[:40]!r}", path)
        return state.strip()
