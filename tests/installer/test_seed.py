"""The first start takes over what a technician left on the boot partition, once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.installer.conftest import ROOT

PROGRAM = ROOT / "image/seed/appliance-seed"


class Appliance:
    """The places the program looks at and fills."""

    def __init__(self, folder: Path) -> None:
        self.esp, self.site, self.run, self.state = (folder / name for name in ("efi", "site", "run", "state"))
        for path in (self.esp, self.run, self.state):
            path.mkdir()

    def leave(self, **files: str) -> None:
        """Put files on the boot partition; `_` stands for a dot."""
        (self.esp / "appliance-seed").mkdir(exist_ok=True)
        for name, text in files.items():
            (self.esp / "appliance-seed" / name.replace("_", ".")).write_text(text)

    def start(self) -> str:
        names = {"SITE": self.site, "RUN": self.run, "STATE": self.state, "ESPS": self.esp}
        environment = os.environ | {f"APPLIANCE_{name}": str(path) for name, path in names.items()}
        done = subprocess.run(["sh", str(PROGRAM)], env=environment, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    @property
    def credential(self) -> Path:
        return self.run / "credstore/compliance-agent.enrolment"


@pytest.fixture
def appliance(tmp_path: Path) -> Appliance:
    return Appliance(tmp_path)


def test_the_code_becomes_a_credential_and_leaves_the_boot_partition(appliance: Appliance) -> None:
    appliance.leave(enrolment_toml='code = "AB12"\n')
    appliance.start()
    assert appliance.credential.read_text() == 'code = "AB12"\n'
    assert appliance.credential.stat().st_mode & 0o077 == 0
    assert not (appliance.esp / "appliance-seed").exists()


def test_until_it_has_been_used_the_code_is_handed_over_at_every_start(appliance: Appliance) -> None:
    appliance.leave(enrolment_toml="code\n")
    appliance.start()
    appliance.credential.unlink()
    appliance.start()
    assert appliance.credential.read_text() == "code\n"


def test_once_the_appliance_is_enrolled_the_code_is_gone(appliance: Appliance) -> None:
    appliance.leave(enrolment_toml="code\n")
    appliance.start()
    appliance.credential.unlink()
    (appliance.state / "compliance-agent").mkdir()
    (appliance.state / "compliance-agent/enrolment.json").write_text("{}")
    appliance.start()
    assert not appliance.credential.exists()
    assert not (appliance.site / "enrolment.toml").exists()


def test_a_fixed_address_is_there_for_the_network_at_every_start(appliance: Appliance) -> None:
    appliance.leave(site_network="[Match]\n")
    for _ in range(2):
        appliance.start()
        file = appliance.run / "systemd/network/10-site.network"
        assert file.read_text() == "[Match]\n"
        assert file.stat().st_mode & 0o777 == 0o644
        file.unlink()


def test_the_site_s_settings_can_be_read_by_the_updater_and_the_code_by_root_only(appliance: Appliance) -> None:
    appliance.leave(site_toml="[window]\n", enrolment_toml="code\n")
    appliance.start()
    assert (appliance.site / "site.toml").stat().st_mode & 0o777 == 0o644
    assert (appliance.site / "enrolment.toml").stat().st_mode & 0o077 == 0


def test_what_is_too_large_or_unknown_is_not_taken(appliance: Appliance) -> None:
    appliance.leave(enrolment_toml="x" * 70_000, other="y")
    assert "larger than" in appliance.start()
    assert not appliance.credential.exists()
    assert not (appliance.site / "other").exists()


def test_without_anything_left_it_does_nothing(appliance: Appliance) -> None:
    assert appliance.start() == ""
    assert not appliance.site.exists()


def test_the_program_is_no_installer_and_no_installer_is_in_the_running_system() -> None:
    """An installed system that carried installer code once erased itself."""
    text = PROGRAM.read_text()
    for word in ("wipefs", "blkdiscard", "sfdisk", "mkfs", "dd "):
        assert word not in text
    for builder in ("vm-tests/t640/image.py", "vm-tests/t640/wheels.py", "vm-tests/t640/paths.py", "image/default.nix"):
        assert "installer" not in (ROOT / builder).read_text(), builder
