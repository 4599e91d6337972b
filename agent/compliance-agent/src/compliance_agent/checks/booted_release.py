"""The running system is the release that Central Command assigned, started from the slot that holds it."""

from __future__ import annotations

from compliance_agent.checks import _disk, _release
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError


class BootedRelease(Check):
    """Compares os-release, the label of the booted slot and the assigned release."""

    id = "booted-release"
    title = "The assigned release is running"
    reads = (
        "/etc/os-release, the labels of the disk's partitions, the dm-verity mapping below / or /usr, and the "
        "release that Central Command assigned"
    )
    citations = (
        hipaa("164.308(a)(1)(ii)(B)", PARTIAL),
        hipaa("164.308(a)(5)(ii)(B)", PARTIAL),
        soc2("CC7.1", PARTIAL),
        soc2("CC8.1", PARTIAL),
    )
    does_not_prove = (
        "That the assigned release is free of known vulnerabilities, or that somebody approved it: only that the box "
        "runs what was assigned to it."
    )
    remedy = (
        "Look at the Updates page: if an update waits for its maintenance window, let it restart; "
        "if it was rolled back, read the reason there and call the provider."
    )

    def run(self, host: Host) -> Finding:
        """Slot and version first, then the assignment."""
        inputs = Inputs(host)
        release = _release.running(inputs)
        facts = {"image": release.id, "running version": release.version}
        if host.config.checks.slots:
            slot = _disk.booted(_disk.slots(inputs, release.id), _disk.verified(inputs))
            if slot is None:
                return inputs.unknown(
                    f"Release {release.version} is running, but it cannot be told from which slot it was started.",
                    facts,
                )
            facts["booted slot"] = slot.name
            if slot.version != release.version:
                return inputs.failed(
                    f"The system says it is {release.version}, but slot {slot.name} it was started from is labelled "
                    f"{slot.version or slot.data.label!r}.",
                    facts,
                )
        elif not _same_generation(inputs):
            return inputs.failed(
                "The system was switched to another generation without a restart: what runs is not what was started.",
                facts,
            )
        return self._against_assignment(inputs, release.version, facts)

    def _against_assignment(self, inputs: Inputs, version: str, facts: dict[str, str]) -> Finding:
        assigned = inputs.host.assigned_version
        inputs.note("release assigned by Central Command", repr(assigned))
        if assigned is None:
            return inputs.unknown(
                f"Release {version} is running, but Central Command has never told this box which one it should run.",
                facts,
            )
        if not assigned:
            return inputs.informational(f"Release {version} is running; Central Command has assigned none.", facts)
        facts["assigned version"] = assigned
        if assigned != version:
            return inputs.failed(f"Release {version} is running, but {assigned} is assigned to this box.", facts)
        return inputs.passed(f"Release {version} is running, as assigned.", facts)


def _same_generation(inputs: Inputs) -> bool:
    """Whether NixOS runs the generation it was started with."""
    targets = []
    for link in ("/run/booted-system", "/run/current-system"):
        try:
            target = str(inputs.host.path(link).readlink())
        except OSError as error:
            raise CheckError(f"{link} cannot be read: {error.strerror or error}", link) from error
        inputs.note(link, target)
        targets.append(target)
    return targets[0] == targets[1]
