"""There is a second system slot to fall back to."""

from __future__ import annotations

from compliance_agent.checks import _disk, _release, _updater
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs
from compliance_agent.checks.base import Check, Finding, Host


class StandbySlot(Check):
    """Two slots on the disk, and since the first update both of them filled."""

    id = "standby-slot"
    title = "A second system slot is ready"
    reads = "The labels of the disk's partitions, the dm-verity mapping, and the updater's status and history"
    citations = (
        hipaa("164.308(a)(7)(ii)(B)", PARTIAL),
        hipaa("164.308(a)(7)(ii)(C)", PARTIAL),
        soc2("A1.2", PARTIAL),
    )
    does_not_prove = (
        "That the system in the standby slot would start: its labels are read, not its contents. "
        "After an update the kernel shows the labels of before until the box restarts."
    )
    remedy = "Let the next update fill the slot; if the slot itself is missing, have the box installed afresh."

    def run(self, host: Host) -> Finding:
        """Count the slots, find the standby one, and hold it against the update history."""
        inputs = Inputs(host)
        if not host.config.checks.slots:
            return inputs.not_applicable("Declared: this host keeps NixOS generations, not slots (`slots = false`).")
        release = _release.running(inputs)
        slots = _disk.slots(inputs, release.id)
        facts = {f"slot {slot.name}": slot.version or slot.data.label for slot in slots}
        if len(slots) != 2:
            return inputs.failed(f"The disk has {len(slots)} complete system slots; two are needed.", facts)
        running = _disk.booted(slots, _disk.verified(inputs))
        if running is None:
            return inputs.unknown("It cannot be told which of the two slots is in use and which stands by.", facts)
        standby = slots[1] if running is slots[0] else slots[0]
        facts["standby"] = standby.name
        return self._standby(inputs, standby, facts)

    def _standby(self, inputs: Inputs, standby: _disk.Slot, facts: dict[str, str]) -> Finding:
        status = _updater.status_if_there(inputs)
        updated = any(event.event == "committed" for event in _updater.history(inputs))
        if status is not None and status.state in _updater.REWRITING:
            return inputs.informational(f"Slot {standby.name} is being written by an update ({status.state}).", facts)
        if standby.unfinished:
            return inputs.failed(
                f"An update of slot {standby.name} was interrupted; there is nothing to fall back to.", facts
            )
        if standby.empty and updated:
            return inputs.failed(
                f"Slot {standby.name} is empty although this box has been updated: there is nothing to fall back to.",
                facts,
            )
        if standby.empty:
            return inputs.passed(f"Slot {standby.name} is there and empty: this box has never been updated.", facts)
        if not standby.version or not standby.consistent:
            return inputs.failed(
                f"Slot {standby.name} is labelled {standby.data.label!r} and its hashes {standby.verity.label!r}: "
                "it cannot be started.",
                facts,
            )
        return inputs.passed(f"Slot {standby.name} stands by with release {standby.version}.", facts)
