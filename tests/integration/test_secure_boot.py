"""Secure Boot and the encrypted state on the virtual T640: what is not signed does not start, and no update locks it.

One ordered story: each step goes on where the one before ended. Times are patience, not measurements.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from t640 import disk, releases, secure_boot
from t640.artifacts import Artifacts
from t640.hardware import Hardware, secure_firmware
from t640.image import build
from t640.machine import Machine
from t640.secure_boot import Keys
from t640.session import open_session
from t640.world import World
from tests.faults.marks import fault

pytestmark = [pytest.mark.vm, pytest.mark.thorough]

LONG = 1800.0
FIRST, SECOND, THIRD = releases.versions()


@dataclass
class Story:
    """What the steps share."""

    world: World
    machine: Machine
    keys: Keys
    built: dict[str, Artifacts] = field(default_factory=dict)

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


def test_an_image_that_is_not_signed_is_refused_by_the_firmware_and_the_old_one_is_back(story: Story) -> None:
    story.world.updates.put(story.version(THIRD))
    story.update()
    assert story.machine.wait_for_boot(LONG).version == SECOND
    story.machine.wait_until_succeeds(f"appliance-update history --json | grep rolled_back | grep -q {THIRD}", LONG)


@fault(51)
def test_changed_measurements_ask_for_the_recovery_key_and_do_not_loop(story: Story) -> None:
    """The firmware's keys are others (PCR 7), as after a reset to factory settings: no slot can open the state."""
    story.machine.shutdown()
    variables = story.machine.work / "variables.qcow2"
    kept = variables.rename(variables.with_name("variables-kept.qcow2"))
    disk.convert(secure_firmware()[1], variables)
    before = len(story.machine.console())
    story.machine.start()
    story.machine.wait_for_console_text(r"(passphrase|recovery key|PIN).*state|state.*(passphrase|recovery key)", LONG)
    assert story.machine.console()[before:].count("Linux version") <= 1
    story.machine.crash()
    variables.unlink()
    kept.rename(variables)
    story.machine.start()
    assert story.machine.wait_for_boot(LONG).version == SECOND
    story.machine.succeed("test -s /var/lib/compliance-agent/device.key")
