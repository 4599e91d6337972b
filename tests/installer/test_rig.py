"""The installation medium on the virtual T640: from stick and CD, onto NVMe and SATA, and where it must not install.

Debian 12's QEMU has no eMMC; its paths are in test_disks.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from t640 import central, image, medium, releases
from t640.clinic import network
from t640.hardware import Hardware
from t640.machine import Machine
from t640.paths import REPOSITORY
from t640.session import open_session
from t640.world import World
from tests.faults.marks import fault

pytestmark = [pytest.mark.vm, pytest.mark.thorough]

VERSION = (REPOSITORY / "VERSION").read_text().strip()
LONG_S = 900
"""Emulation on a busy machine is slow."""


@pytest.fixture(scope="module")
def iso() -> Path:
    return medium.build(image.build(releases.recipe(VERSION)))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_session() as session:
        yield World(session, hosts=(), checkin_interval=20)


@pytest.fixture
def rig(world: World, iso: Path) -> Iterator[Rig]:
    # A short name: the sockets in there have room for 108 characters.
    made = Rig(world, iso, world.session.work / f"installer-{len(list(world.session.work.glob('installer-*')))}")
    yield made
    if made.machine is not None:
        made.machine.forget()


class Rig:
    """One machine with an empty disk, and a medium of its own."""

    def __init__(self, world: World, iso: Path, work: Path) -> None:
        self.world, self.work, self._iso = world, work, iso
        self.machine: Machine | None = None
        work.mkdir()

    def seeded(self, *settings: str) -> Path:
        """A copy of the medium with settings on it, put there by the technician's tool."""
        stick = self.work / "medium.iso"
        subprocess.run(["cp", "--reflink=auto", str(self._iso), str(stick)], check=True)
        subprocess.run([sys.executable, "-m", "appliance_flash", "seed", str(stick), *settings], check=True)
        return stick

    def site(self) -> Path:
        """A site file for the rig's Central Command."""
        (self.work / "ca.pem").write_text(self.world.central.authority.ca.read_text())
        window = '[window]\nstart = "01:00"\nend = "05:00"\ntime_zone = "Europe/Zurich"\n'
        file = self.work / "site.toml"
        file.write_text(f'[central]\nurl = "{central.URL}"\nca_file = "ca.pem"\n{window}')
        return file

    def switch_on(self, stick: Path, **hardware: str) -> Machine:
        """A machine that starts from the medium, the installer on its serial console."""
        empty = self.work / "empty.raw"
        with empty.open("wb") as file:
            file.truncate(16 << 30)
        chosen = Hardware(medium=stick, tap=network.TAP, arguments=("console=ttyS0",), **hardware)  # type: ignore[arg-type]
        self.machine = Machine(self.work / "machine", empty, chosen, self.world.clinic.network.clinic)
        self.machine.start()
        return self.machine


def without_medium(machine: Machine) -> None:
    """Pull the stick out of a machine that is off, and begin a new page of its console."""
    machine.hardware = dataclasses.replace(machine.hardware, medium=None, arguments=())
    (machine.work / "console.log").unlink()


@fault(50)
def test_a_person_installs_from_a_stick_onto_nvme_and_the_appliance_enrols_by_itself(rig: Rig) -> None:
    code = rig.world.central.query("enrolment-code", "create", "--site", central.SITE)["code"]
    machine = rig.switch_on(rig.seeded("--site", str(rig.site()), "--enrolment-code", code), storage="nvme")
    machine.wait_for_console_text(r"type its name \(nvme0n1\)", LONG_S)
    assert "QEMU USB HARDDRIVE: USB" in machine.console() or "the installation medium" in machine.console()
    assert "carries an enrolment code" in machine.console()
    machine.type("nvme0n1\n")
    machine.wait_for_console_text(r"Installed on /dev/nvme0n1", LONG_S)
    machine.type("\n")
    machine.wait_for_shutdown()
    without_medium(machine)
    machine.start()
    assert machine.wait_for_boot(LONG_S).version == VERSION
    rig.world.wait_for_device(LONG_S)
    assert central.SITE in machine.succeed("cat /var/lib/compliance-agent/enrolment.json")
    _is_an_appliance(machine)
    machine.wait_until_succeeds("test ! -e /boot/appliance-seed")
    assert "Europe/Zurich" in machine.succeed("cat /var/lib/appliance-site/site.toml")


def _is_an_appliance(machine: Machine) -> None:
    """Both slots, a state that takes the rest of the disk, and a loader where every firmware looks."""
    listed = machine.succeed("lsblk --bytes --list --noheadings --output SIZE,PARTLABEL").splitlines()
    sizes = {words[1]: int(words[0]) for words in (line.split() for line in listed) if len(words) == 2}
    assert {"ESP", f"t640_{VERSION}", f"t640-verity_{VERSION}", "_empty", "state"} <= set(sizes)
    assert sizes["state"] > 8 << 30
    machine.succeed("cmp /boot/EFI/BOOT/BOOTX64.EFI /boot/EFI/systemd/systemd-bootx64.efi")


def test_a_listed_machine_installs_from_a_cd_onto_sata_by_itself_but_never_twice(rig: Rig) -> None:
    machine = rig.switch_on(rig.seeded("--unattended"), storage="sata", medium_drive="cd")
    machine.wait_for_console_text(r"Powering off", LONG_S)
    assert "type its name" not in machine.console()
    machine.wait_for_shutdown()
    # Somebody forgot to take the medium out.
    (machine.work / "console.log").unlink()
    machine.start()
    machine.wait_for_console_text(r"an appliance is installed already", LONG_S)
    machine.wait_for_console_text(r"type its name \(sda\)", 60)
    machine.type("no\n")
    machine.wait_for_console_text(r"Nothing was changed on /dev/sda", 60)
    machine.crash()
    without_medium(machine)
    machine.start()
    assert machine.wait_for_boot(LONG_S).version == VERSION
    machine.wait_for_unit("var.mount", LONG_S)
    _is_an_appliance(machine)


def test_with_nothing_but_the_medium_it_refuses(rig: Rig) -> None:
    machine = rig.switch_on(rig.seeded("--unattended"), storage="none")
    machine.wait_for_console_text(r"this machine has no internal disk", LONG_S)
    assert "the installation medium" in machine.console()


def test_on_a_foreign_machine_an_unattended_medium_asks_and_touches_nothing(rig: Rig) -> None:
    machine = rig.switch_on(rig.seeded("--unattended"), storage="nvme", product="Latitude 3120")
    machine.wait_for_console_text(r"not on the list of appliances", LONG_S)
    machine.wait_for_console_text(r"type its name \(nvme0n1\)", 60)
    machine.type("\n")
    machine.wait_for_console_text(r"Nothing was changed on /dev/nvme0n1", 60)
    machine.crash()
    compared = ["qemu-img", "compare", "-F", "raw", str(machine.work / "disk.qcow2"), str(rig.work / "empty.raw")]
    assert subprocess.run(compared, capture_output=True, check=False).returncode == 0


def test_without_its_flag_a_medium_asks(rig: Rig) -> None:
    machine = rig.switch_on(rig.seeded("--site", str(rig.site())), storage="sata")
    machine.wait_for_console_text(r"type its name \(sd[ab]\)", LONG_S)
    assert "Writing" not in machine.console()
