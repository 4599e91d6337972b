"""The journal survives a restart, is being written, and stays within its bounds."""

from __future__ import annotations

from compliance_agent.checks import _journal
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, span
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

MACHINE_ID = "/etc/machine-id"
SILENCE = 3600.0
"""An appliance that checks itself every five minutes writes more often than this, in seconds."""
NEARLY_FULL = 0.8
"""Share of the bound above which old entries are being dropped."""


class JournalKept(Check):
    """What happened on the box can be looked up afterwards."""

    id = "journal"
    title = "The journal is kept"
    reads = "The files of the persistent journal, and its oldest and newest entry"
    citations = (hipaa("164.312(b)", PARTIAL), hipaa("164.308(a)(1)(ii)(D)", PARTIAL), soc2("CC7.2", PARTIAL))
    does_not_prove = (
        "That anybody reads the journal, that every program writes to it what matters, or that root has not altered "
        "it: the signed evidence is for that."
    )
    remedy = "Restart the box; if the journal is still not kept, the state disk or its settings need the provider."

    def run(self, host: Host) -> Finding:
        """On disk, lately written, not larger than allowed, and reaching back far enough."""
        inputs = Inputs(host)
        settings = host.config.checks
        size = _size(inputs)
        if size is None:
            return inputs.failed("The journal is not kept on disk: what happened is forgotten at every restart.")
        with _journal.opened(inputs) as journal:
            oldest, newest = journal.first(), journal.last()
        if oldest is None or newest is None:
            raise CheckError("the journal holds no entry that the agent may read", _journal.DIRECTORY)
        now = host.clock.read().wall
        reach, silence = (now - oldest.at) / 86400, now - newest.at
        bound = settings.journal_max_mib << 20
        facts = {
            "size MiB": f"{size / (1 << 20):.0f}",
            "reaches back days": f"{reach:.1f}",
            "newest": f"{span(silence)} old",
        }
        if silence > SILENCE:
            return inputs.failed(f"Nothing has been written to the journal for {span(silence)}.", facts)
        if size > bound:
            return inputs.failed(
                f"The journal takes {size >> 20} MiB; {settings.journal_max_mib} MiB is the most.", facts
            )
        if reach < settings.journal_min_days and size > NEARLY_FULL * bound:
            return inputs.failed(
                f"The journal reaches back only {reach:.1f} days before entries are dropped; "
                f"{settings.journal_min_days:g} days is the least.",
                facts,
            )
        return inputs.passed(f"The journal is kept on disk and reaches back {reach:.1f} days.", facts)


def _size(inputs: Inputs) -> int | None:
    """Bytes the persistent journal takes; None when this machine has none."""
    machine = inputs.text(MACHINE_ID, 4096).strip()
    if len(machine) != 32 or not machine.isalnum():
        raise CheckError(f"{MACHINE_ID} holds no machine id", MACHINE_ID)
    folder = f"{_journal.DIRECTORY}/{machine}"
    path = inputs.host.path(folder)
    try:
        files = [file for file in path.iterdir() if file.suffix in (".journal", ".journal~")]
        size = sum(file.stat().st_blocks * 512 for file in files)
    except FileNotFoundError:
        inputs.note(folder, "(no such directory)")
        return None
    except OSError as error:
        raise CheckError(f"{folder} cannot be listed: {error.strerror or error}", folder) from error
    inputs.note(f"{folder}/", f"{len(files)} files, {size} bytes")
    return size if files else None
