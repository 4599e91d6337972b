"""`python -m tests.faults.table RESULTS DOCUMENT`: docs/faults.md, made from a run and from nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults.catalogue import CASES, Case, Group
from tests.faults.outcome import Outcome, load

HEAD = """# Seventy faults

Made from what runs have written down (`make faults` makes all of it anew); nobody writes in here. After every fault the
same must hold: **some slot boots, the updater can apply the next version, and no evidence is lost or doubled.**

*Simulated device*: the real updater with a real GPT, real files, a real HTTP server and real TUF metadata; firmware,
boot loader and systemd-sysupdate are simulated, so that every write can be cut. *Real processes*: programs of the
appliance as they are, without its kernel. *Image in a container*: the whole image under its own systemd, without loader
and disk. *Virtual T640*: the whole system on the virtual machine; after the fault the next version is fetched, written,
read back and armed, and in `make faults` booted too. *Runs* is how often a scenario was repeated with the
fault in another place, *boots* how often a system was started after the fault.

"""


def render(outcomes: list[Outcome]) -> str:
    """The document. A case without a passing scenario is said to be open."""
    held = sum(_holds(case, outcomes) for case in CASES)
    lines = [HEAD, f"**The invariant held in {held} of {len(CASES)} cases.**\n"]
    for group in Group:
        lines += [f"\n## {group.value.capitalize()}\n", "| # | fault | where | outcome | runs | boots | seconds |",
                  "|---|---|---|---|---|---|---|"]  # fmt: skip
        for case in CASES:
            if case.group is group:
                lines += _rows(case, outcomes)
    return "\n".join(lines) + "\n"


def _holds(case: Case, outcomes: list[Outcome]) -> bool:
    own = [row for row in outcomes if row.case == case.number]
    return bool(own) and all(row.passed for row in own)


def _rows(case: Case, outcomes: list[Outcome]) -> list[str]:
    own = [row for row in outcomes if row.case == case.number]
    if not own:
        return [f"| {case.number} | {case.fault} | - | **open**: not run | - | - | - |"]
    rows = []
    for index, row in enumerate(own):
        first = (str(case.number), case.fault) if index == 0 else ("", "")
        said = row.outcome if row.passed else f"**does not hold**: {row.outcome}"
        cells = (*first, row.stage.value, said.replace("|", "/"), str(row.runs), str(row.boots), f"{row.seconds:.1f}")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(render(load(Path(sys.argv[1]))))
