"""A running virtual T640 that every scenario finds as the first one found it, and the same invariant at the end.

The machine boots once. Each scenario goes back to a snapshot of its memory, disk and firmware variables (SATA, because
QEMU cannot snapshot its NVMe disk; no TPM, because the firmware measures for ten seconds at every boot), with an update
repository that offers nothing yet. The machine is enrolled and has written evidence; then Central Command is stopped,
for its memory cannot be put back, and no fault of this bench may need it.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from t640 import disk
from t640.altered import Alteration, alter
from t640.hardware import Hardware
from t640.image import build
from t640.machine import Machine
from t640.processes import wait_for
from t640.releases import Updates, anchor, recipe, versions
from t640.session import open_session
from t640.world import World
from tests.faults.outcome import Report, Stage

READY = "ready"
PATIENCE = 1200.0
SERVICES = ("compliance-agent.service", "network-scanner.service", "local-portal.service")
VERSION = versions()[0]


@dataclass
class Machinery:
    """The machine and its update repository. `versions`: what runs at first, a candidate, and the one after it."""

    machine: Machine
    updates: Updates
    versions: tuple[str, str, str]
    report: Report
    evidence: list[str]
    whole: bool = False
    """Whether `holds` boots the next version too, or leaves it armed."""

    # -- the repository -----------------------------------------------------------------------------------------------

    def offer(self, version: str, variant: str = "good", alteration: Alteration | None = None) -> None:
        """Publish a version, whole or with a fault."""
        good = build(recipe(version, variant))
        self.updates.put(alter(good, alteration) if alteration else good)

    # -- the machine --------------------------------------------------------------------------------------------------

    def rewind(self) -> None:
        """As it was when it was ready; the repository too. The clock inside is put right."""
        shutil.rmtree(self.updates.repository)
        shutil.copytree(anchor() / "repository", self.updates.repository)
        self.updates.renew()
        self.machine.restore(READY)
        self.machine.succeed(f"date -s @{time.time():.0f}")
        self.report.stage = Stage.MACHINE
        self.evidence[:] = self.ledger()

    def update(self) -> None:
        """What the timer does, without waiting for its end."""
        self.machine.succeed("systemctl reset-failed appliance-update.service || true",
                             "systemctl start --no-block appliance-update.service")  # fmt: skip

    def arm(self, version: str) -> None:
        """`fetch` and `apply` by hand: they arm and leave the reboot to the technician."""
        self.status()  # before this boot is settled the one before would have to prove itself first
        self.by_hand("appliance-update fetch")
        self.by_hand("appliance-update apply")
        status = self.status()
        assert (status["state"], status["candidate_version"]) == ("armed", version)

    def try_out(self, version: str) -> None:
        """Install a version and boot it; unless the `whole` bench runs, two of its three tries are spent already."""
        if self.whole:
            self.update()
            return
        self.arm(version)
        entry = f"/boot/EFI/Linux/t640_{version}"
        self.machine.succeed(f"ls /boot >/dev/null; mv {entry}+3*.efi {entry}+1-2.efi; sync")
        self.machine.begin_reboot()

    def cut_while_writing(self, mib: int) -> None:
        """Pull the plug as soon as `apply` has given the disk so many MiB; then switch on again."""
        self.by_hand("appliance-update fetch")
        self.machine.succeed("sync")
        enough = self.machine.written() + (mib << 20)
        self.machine.succeed("systemd-run --no-block appliance-update apply")
        wait_for(lambda: self.machine.written() >= enough, timeout=PATIENCE, what="The writing of the slot", every=0.01)
        self.machine.crash()
        self.machine.start()
        self.boots(self.versions[0])
        self.proved(self.versions[0])

    def cut_before_the_entry(self, version: str) -> None:
        """Let the power go when the slot is written and its boot entry is not."""
        self.machine.succeed("echo 'uki:write:reboot' >/run/appliance-update/faults-allowed")
        self.update()
        self.boots(self.versions[0])
        self.machine.succeed(f"sfdisk --dump /dev/sda | grep 'name=\"t640_{version}\"'")
        self.machine.fail(f"ls /boot/EFI/Linux | grep {version}")
        self.proved(self.versions[0])

    def try_and_leave(self, version: str) -> None:
        """Install a version that never comes up, and wait for the old one."""
        self.try_out(version)
        self.boots(self.versions[0])  # the tries of a system that never comes up say nothing to us
        self.left(version)

    def hang_and_leave(self, version: str) -> None:
        """Install a version that comes up and hangs, and wait for the old one."""
        old = self.versions[0]
        self.try_out(version)
        end = time.monotonic() + 2 * PATIENCE
        seen: list[str] = []
        while old not in seen:
            assert time.monotonic() < end, seen
            seen.append(self.machine.wait_for_boot(PATIENCE).version)
        self.report.boots += len(seen)
        assert seen.count(version) <= (3 if self.whole else 1), seen
        self.left(version)

    def left(self, version: str) -> None:
        """A version's tries are spent, the updater knows it and says so."""
        self.proved(self.versions[0])
        status = self.status()
        assert (status["running_version"], status["state"]) == (self.versions[0], "rolled_back")
        names = self.machine.succeed("ls /boot/EFI/Linux")
        assert f"t640_{version}+0-3.efi" in names, names
        assert version in self.machine.succeed("appliance-update status")

    @property
    def times(self) -> str:
        """How often a version that does not come up is tried here."""
        return "three times" if self.whole else "once, its last try"

    def by_hand(self, command: str) -> None:
        """A technician's command, said again while the timer's own updater is at work (exit code 7)."""
        again = f"while :; do {command}; said=$?; [ $said = 7 ] || exit $said; sleep 2; done"
        self.machine.succeed(again, timeout=PATIENCE)

    def refused(self) -> str:
        """One run of the updater that must end without a reboot; what it says of it."""
        idle = "systemctl show -P ActiveState appliance-update.service | grep -qE 'inactive|failed'"
        self.machine.wait_until_succeeds(idle, PATIENCE)  # a run that began before would tell of what was before
        self.machine.execute("systemctl start appliance-update.service", timeout=PATIENCE)
        status = self.status()
        return f"{status['detail']} {status['last_check_error']}"

    def status(self) -> dict[str, Any]:
        """The updater's status file, which a boot has only when it has been settled."""
        self.machine.wait_for_file("/run/appliance-update/status.json", PATIENCE)
        return dict(json.loads(self.machine.succeed("cat /run/appliance-update/status.json")))

    def boots(self, *expected: str) -> None:
        """The next boots are exactly of these versions."""
        seen = [self.machine.wait_for_boot(PATIENCE).version for _ in expected]
        self.report.boots += len(seen)
        assert seen == list(expected)

    def proved(self, version: str) -> None:
        """Wait until the running version is good and its services are up."""
        self.machine.wait_until_succeeds(f"ls /boot/EFI/Linux/ | grep -qx t640_{version}.efi", PATIENCE)
        for unit in SERVICES:
            self.machine.wait_for_unit(unit, PATIENCE)

    def ledger(self) -> list[str]:
        """The digests of the agent's evidence, oldest first."""
        query = "SELECT digest FROM evidence ORDER BY sequence"
        text = self.machine.succeed(_sqlite("/var/lib/compliance-agent/evidence.db", query))
        return text.split()

    # -- the invariant ------------------------------------------------------------------------------------------------

    def holds(self, outcome: str, following: str = "") -> None:
        """What runs now can apply the next version, and the evidence from before the fault is there, once."""
        following = following or self.versions[2]
        self.offer(following)
        if self.whole:
            self.update()
            self.boots(following)
            self.proved(following)
        else:
            self.arm(following)
        self.kept(outcome)

    def kept(self, outcome: str) -> None:
        """The evidence from before the fault is there, once; that the next version can be applied comes next."""
        now = self.ledger()
        assert now[: len(self.evidence)] == self.evidence, "evidence from before the fault is missing or altered"
        assert len(set(now)) == len(now), "evidence is doubled"
        self.machine.succeed("compliance-agent evidence verify")
        self.report.outcome = outcome


@contextlib.contextmanager
def machinery(whole: bool = True) -> Iterator[Machinery]:
    """Booted, blessed, enrolled, settled; the updater's own timer is stopped, and what it did is not kept."""
    with open_session() as session:
        world = World(session, hosts=(), checkin_interval=20)
        hardware = Hardware(storage="sata", tpm=False)
        machine = world.appliance(disk.assemble(build(recipe(VERSION))), hardware=hardware)
        bench = Machinery(machine, world.updates, versions(), Report(), [], whole)
        try:
            machine.start()
            assert machine.wait_for_boot().version == VERSION
            bench.proved(VERSION)
            world.wait_for_device(PATIENCE)
            wait_for(bench.ledger, timeout=PATIENCE, what="The first evidence", every=3.0)
            world.central.stop()
            settled(machine)
            machine.succeed("systemctl stop appliance-update.timer", "sync")
            yield bench
        finally:
            machine.crash()


def _sqlite(path: str, query: str) -> str:
    program = "import sqlite3,sys\nfor row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print(*row)"
    return shlex.join(["python3", "-ISc", program, path, query])


def settled(machine: Machine) -> None:
    """Wait until a first boot has nothing left to do that a snapshot would catch in the middle."""
    machine.wait_until_succeeds("systemctl is-system-running | grep -xE 'running|degraded'", PATIENCE)
