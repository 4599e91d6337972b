"""The EFI system partition has room for the next boot image, and the files the firmware needs."""

from __future__ import annotations

from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

MIB = 1 << 20


class EspSpace(Check):
    """Too little room here is how an update ends half way."""

    id = "esp-space"
    title = "The boot partition has room for an update"
    reads = "Size, free space and files of the EFI system partition, by the collector (root)"
    citations = (
        hipaa("164.308(a)(1)(ii)(B)", PARTIAL),
        soc2("A1.1", PARTIAL),
    )
    does_not_prove = "That the boot images on the partition are intact, or that the firmware will start them."
    remedy = (
        "Call the provider before the next update: the boot partition must be cleared of what does not belong there."
    )

    def run(self, host: Host) -> Finding:
        """Room for one more image as large as the largest, and the reserve; the loader in the fallback place."""
        inputs = Inputs(host)
        esp = inputs.privileged().esp
        inputs.note("EFI system partition, by the collector", repr(esp))
        if esp.error:
            raise CheckError(f"the EFI system partition cannot be read: {esp.error}", esp.mount_point or "ESP")
        if not esp.mount_point or esp.total <= 0:
            raise CheckError("the EFI system partition is not mounted", "ESP")
        facts = {"mounted at": esp.mount_point, "size MiB": esp.total // MIB, "free MiB": esp.free // MIB}
        if host.config.checks.slots:
            if not esp.files:
                return inputs.failed("The boot partition holds no boot image: the box may not start again.", facts)
            facts["boot images"] = ", ".join(sorted(esp.files))
        if not esp.fallback_present:
            return inputs.failed(
                "The boot loader is missing from the firmware's fallback place (EFI/BOOT): "
                "if the firmware forgets its settings, the box does not start.",
                facts,
            )
        needed = max(esp.files.values(), default=0) + host.config.checks.esp_reserve_mib * MIB
        if esp.free < needed:
            return inputs.failed(
                f"The boot partition has {esp.free // MIB} MiB free; an update needs {needed // MIB} MiB.", facts
            )
        return inputs.passed(
            f"The boot partition has {esp.free // MIB} MiB free; {needed // MIB} MiB are needed.", facts
        )
