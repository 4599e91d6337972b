"""The kernel keeps even root from changing the running kernel."""

from __future__ import annotations

from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

LOCKDOWN = "/sys/kernel/security/lockdown"
LEVELS = ("none", "integrity", "confidentiality")


class KernelLockdown(Check):
    """kernel_lockdown(7)."""

    id = "kernel-lockdown"
    title = "The running kernel cannot be changed"
    reads = "/sys/kernel/security/lockdown"
    citations = (hipaa("164.308(a)(5)(ii)(B)", PARTIAL), soc2("CC6.8", PARTIAL))
    does_not_prove = "That the kernel was the right one when it started (Secure Boot), or that it has no flaws."
    remedy = "Restart the box; if the kernel is still open, the release was built without lockdown: call the provider."

    def run(self, host: Host) -> Finding:
        """The level in brackets is the active one."""
        inputs = Inputs(host)
        wanted = host.config.checks.lockdown
        if wanted == "none":
            return inputs.not_applicable('Declared: this kernel\'s modules are not signed (`lockdown = "none"`).')
        text = inputs.text(LOCKDOWN, 4096)
        active = [word.strip("[]") for word in text.split() if word.startswith("[") and word.endswith("]")]
        if len(active) != 1 or active[0] not in LEVELS:
            raise CheckError(f"{LOCKDOWN} does not tell its level: {text[:60]!r}", LOCKDOWN)
        facts = {"level": active[0], "least": wanted}
        if LEVELS.index(active[0]) < LEVELS.index(wanted):
            return inputs.failed(f"Kernel lockdown is {active[0]!r}; {wanted!r} is the least.", facts)
        return inputs.passed(f"The running kernel is locked down ({active[0]}).", facts)
