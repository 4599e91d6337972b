"""The firewall is loaded, and what nobody asked for is refused."""

from __future__ import annotations

from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, some
from compliance_agent.checks._nftables import FAMILIES, input_policy
from compliance_agent.checks.base import Check, Finding, Host


class Firewall(Check):
    """Reads the kernel's own ruleset: not a configuration file, not the state of a service."""

    id = "firewall-default-deny"
    title = "The firewall refuses what nobody asked for"
    reads = "The kernel's ruleset (`nft -j list ruleset`), by the collector (root)"
    citations = (hipaa("164.308(a)(1)(ii)(B)", PARTIAL), soc2("CC6.6", PARTIAL))
    does_not_prove = (
        "That every exception is needed, or that the rules of an exception are narrow enough; and nothing about the "
        "clinic's own firewall or about outgoing traffic."
    )
    remedy = (
        "Restart the box. If the firewall is still open, disconnect the box from the network and call the provider."
    )

    def run(self, host: Host) -> Finding:
        """Default deny for both address families, and no rule that lets in a whole protocol."""
        inputs = Inputs(host)
        policy = input_policy(inputs.reading("nftables"))
        facts = {
            "refused by default": ", ".join(policy.dropped) or "nothing",
            "open ports": ", ".join(policy.open_ports),
        }
        if not policy.chains:
            return inputs.failed("No firewall is loaded: every port of the box can be reached.", facts)
        open_families = [name for name in FAMILIES if name not in policy.dropped]
        if open_families:
            return inputs.failed(f"The firewall lets in over {' and '.join(open_families)} what no rule names.", facts)
        if policy.wide:
            facts["too wide"] = "; ".join(policy.wide)
            return inputs.failed(
                f"The firewall has a rule that lets in a whole protocol: {some(list(policy.wide), 2)}.", facts
            )
        return inputs.passed("The firewall is loaded and refuses what no rule names, over IPv4 and IPv6.", facts)
