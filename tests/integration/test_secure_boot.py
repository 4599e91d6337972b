"""Secure Boot and the encrypted state on the virtual T640: what is not signed does not start, and no update locks it.

One ordered story: each step goes on where the one before ended. Times are patience, not measurements.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from t640 import disk, releases, secure_boot
from t640.artifacts import Artifacts
from t640.hardware import Hardware, secure_firmware
from t640.image import build
from t640.machine import Machine
from t640.processes import wait_for
from t640.secure_boot import Keys
from t640.session import open_session
from t640.world import World
from tests.faults.marks import fault

pytestmark = [pytest.mark.vm, pytest.mark.thorough, pytest.mark.story]

LONG = 1800.0
FIRST, SECOND, THIRD = releases.versions()
FOURTH = releases.version(3)


@dataclass
class Story:
    """What the steps share."""

    world: World
    machine: Machine
    keys: Keys
    built: dict[str, Artifacts] = field(default_factory=dict)
    recovery_key: str = ""

    def version(self, version: str) -> Artifacts:
        """A version as it was built: encrypted state, and nothing signed."""
        if version not in self.built:
            self.built[version] = _built(version, self.keys)
        return self.built[version]

    def blessed(self, version: str) -> None:
        listed = "ls /boot/EFI/Linux/ /efi/EFI/Linux/ 2>&1"
        self.machine.wait_until_succeeds(f"{listed} | grep -qx t640_{version}.efi", LONG)

    def update(self) -> None:
        self.machine.execute("systemctl --no-block start appliance-update.service")


def _built(version: str, keys: Keys) -> Artifacts:
    recipe = releases.recipe(version)
    files = {**recipe.files, **secure_boot.encrypted_state(keys)}
    return build(dataclasses.replace(recipe, files=files, packages=secure_boot.PACKAGES))


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    keys = secure_boot.make_keys()
    try:
        first = _built(FIRST, keys)
        with open_session() as session:
            world = World(session, checkin_interval=20)
            base = disk.assemble(secure_boot.signed(keys, first))
            machine = world.appliance(base, hardware=Hardware(secure_boot=True))
            variables = secure_boot.enrolled_variables(keys, machine.work / "enrolled.fd")
            (machine.work / "variables.qcow2").unlink(missing_ok=True)
            disk.convert(variables, machine.work / "variables.qcow2")
            try:
                yield Story(world, machine, keys, {FIRST: first})
            finally:
                machine.crash()
    finally:
        shutil.rmtree(keys.folder, ignore_errors=True)


def test_a_signed_image_boots_with_secure_boot_on(story: Story) -> None:
    story.machine.start()
    assert story.machine.wait_for_boot(LONG).version == FIRST
    said = story.machine.succeed("bootctl status --no-pager 2>/dev/null || true")
    assert "Secure Boot: enabled" in said, said
    story.blessed(FIRST)


def test_the_state_is_encrypted_and_the_tpm_opened_it(story: Story) -> None:
    assert "crypt" in story.machine.succeed("lsblk --noheadings --output TYPE --inverse $(findmnt -n -o SOURCE /var)")
    dump = story.machine.succeed("cryptsetup luksDump /dev/disk/by-partlabel/state")
    assert "systemd-tpm2" in dump
    assert "tpm2-pubkey-pcrs: 11" in " ".join(dump.split()), dump


def test_it_opens_again_after_a_restart(story: Story) -> None:
    assert story.machine.reboot(LONG).version == FIRST
    story.machine.succeed("test -s /var/lib/compliance-agent/device.key")


def test_an_update_that_is_signed_opens_the_same_state(story: Story) -> None:
    identity = story.machine.succeed("sha256sum /var/lib/compliance-agent/device.key")
    story.world.updates.put(secure_boot.signed(story.keys, story.version(SECOND)))
    story.update()
    assert story.machine.wait_for_boot(LONG).version == SECOND
    assert story.machine.succeed("sha256sum /var/lib/compliance-agent/device.key") == identity
    story.blessed(SECOND)


def test_an_image_that_is_not_signed_is_refused_before_anything_is_written(story: Story) -> None:
    """The firmware would not start it, and the boot loader would have nobody to hand over to."""
    before = story.machine.succeed("sfdisk --dump /dev/nvme0n1; ls /boot/EFI/Linux")
    story.world.updates.put(story.version(THIRD))
    story.update()
    story.machine.wait_until_succeeds("appliance-update status --json | grep -q 'is not signed'", LONG)
    print(story.machine.succeed("appliance-update status"))
    assert story.machine.succeed("sfdisk --dump /dev/nvme0n1; ls /boot/EFI/Linux") == before


def test_a_recovery_key_is_given_on_the_bench(story: Story) -> None:
    """By the command of docs/secure-boot.md."""
    written = story.machine.succeed(
        "systemd-cryptenroll --unlock-tpm2-device=auto --recovery-key /dev/disk/by-partlabel/state"
    )
    (story.recovery_key,) = re.findall(r"\b(?:[cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}\b", written)


@fault(51)
def test_changed_measurements_ask_for_the_recovery_key_and_do_not_loop(story: Story) -> None:
    """The firmware's keys are others (PCR 7), as after a reset to factory settings: no slot can open the state."""
    story.machine.shutdown()
    variables = story.machine.work / "variables.qcow2"
    variables.unlink()
    disk.convert(secure_firmware()[1], variables)
    before = len(story.machine.console())
    story.machine.start()
    asks = r"(passphrase|recovery key).*state"
    wait_for(lambda: re.search(asks, story.machine.console()[before:]) is not None, timeout=LONG, what="The question")
    said = story.machine.console()[before:]
    print(said[-1500:])
    assert said.count("BdsDxe: starting") == 1, said
    story.machine.type(f"{story.recovery_key}\r")
    assert story.machine.wait_for_boot(LONG).version == SECOND
    story.machine.wait_until_succeeds("test -s /var/lib/compliance-agent/device.key", LONG)


@fault(51)
def test_sealed_anew_it_opens_by_itself_and_takes_the_next_version(story: Story) -> None:
    """By the command of docs/secure-boot.md."""
    identity = story.machine.succeed("sha256sum /var/lib/compliance-agent/device.key")
    story.machine.succeed(
        f"printf %s {story.recovery_key} >/run/key",
        "systemd-cryptenroll --unlock-key-file=/run/key --wipe-slot=tpm2 --tpm2-device=auto --tpm2-pcrs=7 "
        f"--tpm2-public-key={secure_boot.PUBLIC_KEY} --tpm2-public-key-pcrs=11 /dev/disk/by-partlabel/state",
        "rm /run/key",
    )
    assert story.machine.reboot(LONG).version == SECOND
    story.world.updates.put(secure_boot.signed(story.keys, story.version(FOURTH)))
    story.update()
    assert story.machine.wait_for_boot(LONG).version == FOURTH
    story.blessed(FOURTH)
    assert story.machine.succeed("sha256sum /var/lib/compliance-agent/device.key") == identity
