"""The firmware starts only what is signed."""

from __future__ import annotations

from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

VARIABLES = "/sys/firmware/efi/efivars"
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""EFI_GLOBAL_VARIABLE (UEFI specification 2.10, section 3.3)."""
ATTRIBUTES = 0x7F


class SecureBoot(Check):
    """The firmware's own variables."""

    id = "secure-boot"
    title = "Secure Boot is on"
    reads = "The firmware's variables SecureBoot and SetupMode"
    citations = (hipaa("164.308(a)(5)(ii)(B)", PARTIAL), hipaa("164.310(c)", PARTIAL), soc2("CC6.8", PARTIAL))
    does_not_prove = "Whose keys the firmware trusts, or that its setup is protected by a password."
    remedy = (
        "Turn on Secure Boot in the firmware's setup; if the box then does not start, its keys are not enrolled yet."
    )

    def run(self, host: Host) -> Finding:
        """On, and not in setup mode, in which anybody may enrol keys."""
        inputs = Inputs(host)
        if not inputs.names("/sys/firmware/efi") or "efivars" not in inputs.names("/sys/firmware/efi"):
            raise CheckError(f"{VARIABLES} is not there: the box was not started by UEFI", VARIABLES)
        secure, setup = (_switch(inputs, name) for name in ("SecureBoot", "SetupMode"))
        facts = {"Secure Boot": "on" if secure else "off", "setup mode": "on" if setup else "off"}
        if setup:
            return inputs.failed("The firmware is in setup mode: it trusts any key it is given.", facts)
        if not secure:
            return inputs.failed("Secure Boot is off: the firmware starts any system, signed or not.", facts)
        return inputs.passed("Secure Boot is on: the firmware starts only what is signed.", facts)


def _switch(inputs: Inputs, name: str) -> bool:
    """A variable of one byte; efivarfs puts four bytes of attributes before it, of which seven bits are defined."""
    path = f"{VARIABLES}/{name}-{GLOBAL}"
    content = inputs.bytes(path, 4096)
    if len(content) != 5 or content[4] not in (0, 1) or int.from_bytes(content[:4], "little") > ATTRIBUTES:
        raise CheckError(f"{path} holds {len(content)} bytes that are no switch", path)
    return content[4] == 1
