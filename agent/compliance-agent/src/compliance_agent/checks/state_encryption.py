"""The state disk is encrypted, where the site decided so."""

from __future__ import annotations

from compliance_agent.checks import _disk
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError


class StateEncryption(Check):
    """Whoever takes the box away takes the state disk with it."""

    id = "state-encryption"
    title = "The state disk is encrypted"
    reads = "The mount table and the device mapping below the state disk"
    citations = (hipaa("164.312(a)(2)(iv)", PARTIAL), soc2("CC6.1", PARTIAL))
    does_not_prove = "Where the key is kept, or that the clinic's own computers are encrypted."
    remedy = (
        "Have the box installed afresh with encryption, or write down why the site does without (45 CFR 164.306(d)(3))."
    )

    def run(self, host: Host) -> Finding:
        """LUKS below the state disk."""
        inputs = Inputs(host)
        point = host.config.checks.state_mount_point
        mount = _disk.mounts(inputs).get(point)
        if mount is None:
            raise CheckError(f"{point} is not mounted by itself: there is no state disk to look at", _disk.MOUNTS)
        kind = _disk.mapped(inputs, mount)
        facts = {"device": mount.source, "encryption": kind.split("-")[1] if kind.startswith(_disk.LUKS) else "none"}
        if kind.startswith(_disk.LUKS):
            return inputs.passed(f"The state disk ({mount.source}) is encrypted.", facts)
        if not host.config.checks.state_encryption_required:
            return inputs.informational(
                "The state disk is not encrypted. The rule is addressable, and this site has not declared that it "
                "wants it (`state_encryption_required`).",
                facts,
            )
        return inputs.failed(
            f"The state disk ({mount.source}) is not encrypted, although the site decided that it is to be.", facts
        )
