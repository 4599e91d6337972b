"""Installing, on real block devices made of files."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance_flash import blockmap
from tests.installer.conftest import (
    ESP_MIB,
    ESP_START,
    INSTALLER,
    LOADER,
    MIB,
    MINIMUM_MIB,
    SLOT_START,
    UKI,
    Medium,
    a_disk,
    install,
    needs_loop_devices,
    pretend,
    run,
)

pytestmark = needs_loop_devices


def first_bytes(disk: str, count: int) -> bytes:
    with Path(disk).open("rb") as file:
        return file.read(count)


def on_esp(disk: str, path: str) -> bytes:
    """A file of the disk's boot partition, read without mounting it."""
    command = ["mcopy", "-n", "-i", f"{disk}@@{ESP_START}", f"::{path}", "-"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def carries_the_image(disk: str, image: Path) -> bool:
    """Whether the slot is there byte for byte, the boot partition is sound, and the table names both."""
    length = 8 * MIB
    with Path(disk).open("rb") as written, image.open("rb") as source:
        written.seek(SLOT_START)
        source.seek(SLOT_START)
        same = written.read(length) == source.read(length)
    table = run("sfdisk", "--dump", disk)
    return same and on_esp(disk, "EFI/Linux/t640_2026.11.0+3.efi") == UKI and table.count("start=") == 2


def test_the_disk_carries_the_image_and_a_complete_partition_table(medium: Medium, disk: str) -> None:
    done = install(medium, disk, answer=f"{Path(disk).name}\n")
    assert done.returncode == 0, done.stderr
    assert f"Installed on {disk}" in done.stderr
    assert carries_the_image(disk, medium.image)
    verified = subprocess.run(["sfdisk", "--verify", disk], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    probed = subprocess.run(["blkid", "--probe", disk], capture_output=True, text=True, check=False).stdout
    assert "old-records" not in probed


def test_the_table_s_copy_and_the_usable_space_reach_the_disk_s_end(medium: Medium, disk: str) -> None:
    assert install(medium, disk, "--yes").returncode == 0
    assert f"last-lba: {160 * MIB // 512 - 34}" in run("sfdisk", "--dump", disk)
    with Path(disk).open("rb") as file:
        file.seek(-512, 2)
        assert file.read(8) == b"EFI PART"


def test_firmware_without_memory_finds_the_loader_by_the_fallback_path(medium: Medium, disk: str) -> None:
    assert install(medium, disk, "--yes").returncode == 0
    assert on_esp(disk, "EFI/BOOT/BOOTX64.EFI") == LOADER


def test_the_boot_partition_s_file_system_is_sound(medium: Medium, disk: str, tmp_path: Path) -> None:
    assert install(medium, disk, "--yes").returncode == 0
    esp = tmp_path / "esp"
    with Path(disk).open("rb") as file:
        file.seek(ESP_START)
        esp.write_bytes(file.read(ESP_MIB * MIB))
    assert subprocess.run(["fsck.vfat", "-n", str(esp)], capture_output=True, check=False).returncode == 0


def test_what_the_technician_left_on_the_medium_is_on_the_disk(medium: Medium, disk: str) -> None:
    medium.seed(enrolment_toml='code = "AB12"\n', site_toml='[window]\nstart = "02:00"\n', unattended="", other="x")
    done = install(medium, disk, "--yes")
    assert done.returncode == 0, done.stderr
    assert on_esp(disk, "appliance-seed/enrolment.toml") == b'code = "AB12"\n'
    assert on_esp(disk, "appliance-seed/site.toml") == b'[window]\nstart = "02:00"\n'
    listed = run("mdir", "-b", "-i", f"{disk}@@{ESP_START}", "::appliance-seed")
    assert "unattended" not in listed
    assert "other" not in listed


def test_it_shows_what_will_be_lost_and_how_far_it_is(medium: Medium, disk: str) -> None:
    done = install(medium, disk, "--yes")
    assert "old-records" in done.stderr
    for word in ("Writing", "Checking", "100 %"):
        assert word in done.stderr


@pytest.mark.parametrize("answer", ["", "yes\n", "y\n", "sda\n"])
def test_any_other_answer_than_the_disk_s_name_changes_nothing(medium: Medium, disk: str, answer: str) -> None:
    before = first_bytes(disk, 4 * MIB)
    done = install(medium, disk, answer=answer)
    assert done.returncode == 3
    assert "Nothing was changed" in done.stderr
    assert first_bytes(disk, 4 * MIB) == before


# -- a medium or a disk that is not sound ------------------------------------------------------------------------------


def boots(disk: str) -> bool:
    """Whether firmware would find a partition table, at the beginning or at the end."""
    return "gpt" in subprocess.run(["sfdisk", "--dump", disk], capture_output=True, text=True, check=False).stdout


def test_an_image_that_reads_back_differently_is_not_called_installed(medium: Medium, disk: str) -> None:
    text = (medium.folder / "t640.bmap").read_text()
    spans = blockmap.parse(text.encode()).spans
    text = text.replace(spans[-2].digest, "0" * 64)
    (medium.folder / "t640.bmap").write_text(text)
    medium.describe(map_sha256=hashlib.sha256(text.encode()).hexdigest())
    done = install(medium, disk, "--yes")
    assert done.returncode == 4
    assert "read back" in done.stderr
    assert not boots(disk)


@pytest.mark.parametrize("fault", ["truncated", "not zstd", "longer than its map"])
def test_a_damaged_medium_is_noticed_and_the_disk_does_not_boot(medium: Medium, disk: str, fault: str) -> None:
    packed = medium.folder / "t640.raw.zst"
    if fault == "truncated":
        packed.write_bytes(packed.read_bytes()[:-2000])
    elif fault == "not zstd":
        packed.write_bytes(b"\x00" * 4096)
    else:
        more = subprocess.run(["zstd", "-q", "-c"], input=bytes(5000), capture_output=True, check=True).stdout
        packed.write_bytes(packed.read_bytes() + more)
    done = install(medium, disk, "--yes")
    assert done.returncode == 4, done.stderr
    assert "Installed on" not in done.stderr
    assert not boots(disk)


def test_a_damaged_map_is_noticed_before_anything_is_erased(medium: Medium, disk: str) -> None:
    (medium.folder / "t640.bmap").write_text("<bmap/>")
    before = first_bytes(disk, 4 * MIB)
    done = install(medium, disk, "--yes")
    assert done.returncode == 1
    assert "damaged" in done.stderr
    assert first_bytes(disk, 4 * MIB) == before


def test_a_disk_that_fails_while_it_is_written_is_told_and_does_not_boot(medium: Medium, tmp_path: Path) -> None:
    # A disk on a file system that is full before the disk is: its writes fail as those of a dying one do.
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=6M", "tmpfs", str(mounted))
    file = mounted / "disk"
    with file.open("wb") as opened:
        opened.truncate(160 * MIB)
    loop = run("losetup", "--find", "--show", str(file)).strip()
    try:
        done = install(medium, loop, "--yes")
        assert done.returncode == 4, done.stderr
        assert "failed" in done.stderr
        assert "Installed on" not in done.stderr
        assert not boots(loop)
    finally:
        run("losetup", "--detach", loop)
        run("umount", "--lazy", str(mounted))


def test_a_disk_too_small_for_two_systems_is_refused_before_anything_is_asked(medium: Medium, tmp_path: Path) -> None:
    for small in a_disk(tmp_path / "small", 100):
        before = first_bytes(small, 4 * MIB)
        done = install(medium, small, "--yes")
        assert done.returncode == 1
        assert "100 MiB" in done.stderr
        assert f"{MINIMUM_MIB} MiB" in done.stderr
        assert first_bytes(small, 4 * MIB) == before


def test_a_disk_with_other_sectors_than_the_image_s_is_refused(medium: Medium, disk: str) -> None:
    medium.describe(sector_size="4096")
    done = install(medium, disk, "--yes")
    assert done.returncode == 1
    assert "sectors of 512 bytes" in done.stderr


def test_a_disk_in_use_is_refused(medium: Medium, disk: str, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    run("mount", disk, str(mounted))
    try:
        done = install(medium, disk, "--yes")
    finally:
        run("umount", str(mounted))
    assert done.returncode == 1
    assert "in use" in done.stderr


def test_the_disk_the_medium_itself_lies_on_is_refused(medium: Medium, tmp_path: Path, disk: str) -> None:
    mounted = tmp_path / "stick"
    mounted.mkdir()
    run("mount", disk, str(mounted))
    (mounted / "images").mkdir()
    for file in medium.folder.iterdir():
        (mounted / "images" / file.name).write_bytes(file.read_bytes())
    try:
        done = install(Medium(mounted / "images", medium.image), disk, "--yes")
    finally:
        run("umount", str(mounted))
    assert done.returncode == 1
    assert "the medium this installer was started from" in done.stderr


def test_a_disk_somebody_holds_for_himself_is_refused(medium: Medium, disk: str) -> None:
    """As a RAID, an encryption or a ZFS does, without a mount."""
    before = first_bytes(disk, 4 * MIB)
    held = os.open(disk, os.O_RDWR | os.O_EXCL)
    try:
        done = install(medium, disk, "--yes")
    finally:
        os.close(held)
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert first_bytes(disk, 4 * MIB) == before


def test_a_link_to_the_disk_the_medium_lies_on_is_refused_as_well(tmp_path: Path, disk: str) -> None:
    link = tmp_path / "by-id"
    link.symlink_to(disk)
    script = 'started_from() { echo "$DISK"; }; check_medium() { :; }; described() { echo 1; }; main --disk "$1" --yes'
    command = ["bash", "-c", f'source "$1"; shift; DISK={disk}; {script}', "bash", str(INSTALLER), str(link)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{disk} is the medium this installer was started from" in done.stderr


def test_another_disk_that_took_the_name_while_the_question_was_open_is_left_alone(
    medium: Medium, disk: str, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    with other.open("wb") as file:
        file.truncate(160 * MIB)
    run("mkfs.ext4", "-q", "-F", "-L", "patients", str(other))
    before = other.read_bytes()
    command = ["bash", str(INSTALLER), "--images", str(medium.folder), "--disk", disk, "--stay-on"]
    asking = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert asking.stdin and asking.stderr
    said = b""
    while b"type its name" not in said:
        said += (piece := asking.stderr.read1())  # type: ignore[attr-defined]
        assert piece, said.decode()
    run("losetup", "--detach", disk)
    run("losetup", disk, str(other))
    _, rest = asking.communicate(f"{Path(disk).name}\n".encode())
    assert asking.returncode == 1
    assert "is not the disk it was" in rest.decode()
    assert other.read_bytes() == before


# -- the site's settings on the medium, and an installation without a person -------------------------------------------


@pytest.fixture
def stick(tmp_path: Path, image: Path) -> Iterator[str]:
    """A medium with settings in its boot partition."""
    file = tmp_path / "stick"
    file.write_bytes(image.read_bytes())
    (tmp_path / "site").write_text("settings\n")
    at = f"{file}@@{ESP_START}"
    run("mmd", "-i", at, "::appliance-seed")
    for name in ("site.toml", "unattended"):
        run("mcopy", "-i", at, str(tmp_path / "site"), f"::appliance-seed/{name}")
    name = run("losetup", "--find", "--show", str(file)).strip()
    yield name
    run("losetup", "--detach", name)


def take_seed(stick: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = 'findmnt() { case "$*" in *FSTYPE*) echo iso9660 ;; *) echo "$STICK" ;; esac; }; take_seed "$2" "$3"'
    command = ["bash", "-c", f'source "$1"; {script}', "bash", str(INSTALLER), str(folder), str(folder / "taken")]
    environment = os.environ | {"STICK": stick}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_settings_in_the_medium_s_boot_partition_are_taken(stick: str, tmp_path: Path) -> None:
    assert take_seed(stick, tmp_path).returncode == 0
    assert sorted(file.name for file in (tmp_path / "taken").iterdir()) == ["site.toml", "unattended"]
    assert (tmp_path / "taken/site.toml").read_text() == "settings\n"


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        ("mcopy", 'case "$*" in *site.toml*) exit 1 ;; esac; exec /usr/bin/mcopy "$@"'),
        ("mdir", "exit 1"),
        ("dd", "exit 1"),
    ],
)
def test_settings_that_cannot_be_read_are_not_left_out_silently(
    stick: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, fault: str
) -> None:
    pretend(tmp_path, monkeypatch, program, fault)
    done = take_seed(stick, tmp_path)
    assert done.returncode == 1
    assert "settings on the installation medium cannot be read" in done.stderr


def test_an_installation_without_a_person_that_failed_is_not_repeated_without_one(
    medium: Medium, disk: str, tmp_path: Path
) -> None:
    medium.seed(unattended="install\n")
    (tmp_path / "machines").write_text("*|*\n")
    script = 'candidates() { echo "$DISK"; }; install_on() { return "$OUTCOME"; }; main "$@"'

    def start(outcome: int, answer: str = "") -> tuple[int, bool, bool]:
        """Its exit status, whether it asked, and whether the next start will."""
        options = ["--images", str(medium.folder), "--machines", str(tmp_path / "machines"), "--stay-on"]
        command = ["bash", "-c", f'source "$1"; shift; {script}', "bash", str(INSTALLER), *options]
        environment = os.environ | {"DISK": disk, "OUTCOME": str(outcome), "INSTALLER_RUN": str(tmp_path)}
        done = subprocess.run(command, env=environment, input=answer, capture_output=True, text=True, check=False)
        return done.returncode, "type its name" in done.stderr, (tmp_path / "install-appliance.unattended").exists()

    assert start(4) == (4, False, True)
    assert start(4) == (3, True, True)
    assert start(0, f"{Path(disk).name}\n") == (0, True, False)
    assert start(0) == (0, False, False)


@pytest.mark.parametrize("key", ["image", "version", "map", "map_sha256", "minimum_mib", "sector_size"])
def test_a_medium_without_its_description_says_so(medium: Medium, disk: str, key: str) -> None:
    medium.describe(**{key: ""})
    before = first_bytes(disk, 4 * MIB)
    done = install(medium, disk, "--yes")
    assert done.returncode == 1
    assert f"{key}=" in done.stderr
    assert first_bytes(disk, 4 * MIB) == before


def test_wrong_usage_has_its_own_exit_status() -> None:
    for arguments in (["--disk"], ["--frobnicate"], ["/dev/sda"]):
        done = subprocess.run(["bash", str(INSTALLER), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "Usage:" in done.stderr


def test_the_scripts_pass_shellcheck() -> None:
    files = [str(INSTALLER), *map(str, sorted((INSTALLER.parent / "lib").glob("*.sh")))]
    done = subprocess.run(["shellcheck", "--external-sources", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
