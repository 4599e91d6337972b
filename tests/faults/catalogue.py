"""The seventy faults an update must survive, by number.

The list is this project's own yardstick: power cuts, forged and broken downloads, wrong clocks, full and failing disks,
systems that do not boot, programs that break themselves, and a fleet that is late, doubled or downgraded. Every case
has at least one scenario in this folder, and `test_catalogue.py` fails when one is missing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Group(enum.StrEnum):
    """What kind of fault it is."""

    POWER = "power and crash"
    DOWNLOAD = "download and authenticity"
    TIME = "time"
    MEDIA = "space and media"
    BOOT = "boot"
    APPLICATION = "application"
    FLEET = "fleet and policy"


@dataclass(frozen=True)
class Case:
    """One fault. `fault` says what is injected, in the words of the table."""

    number: int
    group: Group
    fault: str


_FAULTS: dict[Group, tuple[int, tuple[str, ...]]] = {
    Group.POWER: (
        1,
        (
            "power cut while metadata is fetched",
            "power cut in the middle of a download",
            "power cut after the download, before it is verified",
            "power cut while the slot is written",
            "power cut while the verity tree is written",
            "power cut with the kernel image half copied to the ESP",
            "power cut between the slot and its boot entry",
            "power cut while the loader renames the counter",
            "power cut while the gate runs",
            "power cut before and after the blessing",
            "power cut during the rollback",
            "power cut during the clean-up",
            "power cut while state is snapshotted and restored",
            "five cuts at random over three updates",
            "the updater is killed in every state",
        ),
    ),
    Group.DOWNLOAD: (
        16,
        (
            "one flipped byte",
            "a truncated artifact",
            "metadata signed with a wrong key",
            "metadata without a signature",
            "old metadata replayed",
            "metadata frozen until it expired",
            "targets of one release mixed with another's",
            "keys rotated several times while the device was off",
            "a genuine release for another device class",
            "unknown fields, missing fields, wrong types, ten megabytes, every past format",
            "a captive portal answers 200 with a page",
            "the server ignores ranges and the link flaps",
            "no name service, dead proxy",
            "metadata exchanged while it is being fetched",
        ),
    ),
    Group.TIME: (
        30,
        (
            "the clock says 1970",
            "the clock is ten years ahead, then right again",
            "the clock jumps while the gate's deadline runs",
        ),
    ),
    Group.MEDIA: (
        33,
        (
            "the ESP is full",
            "the state disk is full",
            "the slot is too small by a block",
            "the slot's medium reports errors",
            "what is read back differs from what was written",
            "a damaged ESP, a second entry of the same version",
            "a second disk with the same labels",
            "the other slot is mounted",
        ),
    ),
    Group.BOOT: (
        41,
        (
            "kernel panic",
            "empty initrd",
            "no init in the system",
            "a hang without a panic",
            "the root hash does not fit the slot",
            "a required unit fails, three boots",
            "the counter is spent and a default entry pins the bad version",
            "the firmware's variables are lost",
            "both slots are bad",
            "the recovery entry is bad too",
            "the TPM's measurements change",
        ),
    ),
    Group.APPLICATION: (
        52,
        (
            "the agent crashes in a loop",
            "the agent lives and crashes on the update order (the pilot's failure)",
            "the new version's updater is broken",
            "broken after it was committed",
            "the agent's old configuration lacks a new key",
            "the network worked before the update and not after",
            "the network worked neither before nor after",
            "a database migration fails half-way",
            "a database migration takes longer than the gate",
            "fallback to a version with an older schema",
            "portal or scanner dead, agent well",
            "a clean-up or rebuild while the version is on trial",
        ),
    ),
    Group.FLEET: (
        64,
        (
            "a downgrade, unsigned and signed",
            "the version that failed here is offered again",
            "two orders and two updaters at once",
            "an order arrives during the rollback",
            "the first devices of a rollout fail",
            "a device was off for twelve releases",
            "the server's acknowledgements are lost",
        ),
    ),
}

CASES: tuple[Case, ...] = tuple(
    Case(first + index, group, fault)
    for group, (first, faults) in _FAULTS.items()
    for index, fault in enumerate(faults)
)


def case(number: int) -> Case:
    """The case of a number from 1 to 70. Raises `IndexError`."""
    found = CASES[number - 1]
    if found.number != number or number < 1:
        raise IndexError(number)
    return found
