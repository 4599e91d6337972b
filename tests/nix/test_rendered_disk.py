"""The disk of the evaluated image against layout.toml, the updater's own rendering of it, and systemd-repart itself."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from appliance_update import layout as updater
from tests.nix.files import ROOT, definition

Host = dict[str, Any]
MIB = 1024 * 1024
DISK_MIB = 15258
"""A disk of 16 GB."""


@pytest.fixture(scope="module")
def described() -> updater.Layout:
    return updater.load(ROOT / "image/layout.toml")


def at_version(text: str, host: Host) -> str:
    return text.replace("%A", host["identity"]["version"])


def test_the_device_repartitions_itself_as_the_updater_would_have_it(t640: Host, described: updater.Layout) -> None:
    expected = updater.repart_definitions(described, "nixos")
    assert {f"{name}.conf" for name in t640["disk"]["device"]} == set(expected)
    for name, text in t640["disk"]["device"].items():
        assert definition(text) == definition(at_version(expected[f"{name}.conf"], t640)), name


def test_sysupdate_writes_where_the_updater_would_have_it(t640: Host, described: updater.Layout) -> None:
    expected = {**updater.slot_transfers(described, "nixos"), **updater.boot_transfers(described)}
    rendered = {name for name in t640["etc"] if name.startswith("sysupdate.d/")}
    assert rendered == {f"sysupdate.d/{name}" for name in expected}
    for name, text in expected.items():
        assert definition(t640["etc"][f"sysupdate.d/{name}"]) == definition(text), name


def test_the_image_is_built_with_the_sizes_labels_and_types_of_the_layout(t640: Host, layout: dict[str, Any]) -> None:
    built = [partition for partition in layout["partition"] if partition["built"] == "image"]
    assert set(t640["disk"]["image"]) == {partition["name"] for partition in built}
    for partition in built:
        made = definition(t640["disk"]["image"][partition["name"]])
        assert made["Partition", "Label"] == partition["label"].replace("@v", t640["identity"]["version"])
        assert made["Partition", "SizeMinBytes"] == made["Partition", "SizeMaxBytes"] == f"{partition['size_mib']}M"
        kind = partition.get("type") or layout["flavour"]["nixos"][f"{partition['role']}_type"]
        assert made["Partition", "Type"] == kind


def test_the_slot_is_one_verity_pair_whose_files_carry_their_uuids(t640: Host, layout: dict[str, Any]) -> None:
    data, verity = (definition(t640["disk"]["image"][name]) for name in ("20-data-a", "10-verity-a"))
    assert (data["Partition", "Verity"], verity["Partition", "Verity"]) == ("data", "hash")
    assert data["Partition", "VerityMatchKey"] == verity["Partition", "VerityMatchKey"]
    for made, split in ((data, "data_split_name"), (verity, "verity_split_name")):
        assert made["Partition", "SplitName"] == layout["release"][split]
        assert made["Partition", "VerityDataBlockSizeBytes"] == str(layout["slot"]["data_block_size"])
        assert made["Partition", "VerityHashBlockSizeBytes"] == str(layout["slot"]["hash_block_size"])


def test_the_kernel_is_told_what_the_layout_says_and_never_a_fixed_root(t640: Host, layout: dict[str, Any]) -> None:
    arguments, wanted = t640["boot"]["kernelParams"], layout["boot"]["command_line"]
    assert [argument for argument in arguments if argument in wanted] == wanted
    assert t640["boot"]["uki"]["file"] == layout["esp"]["uki_first"].replace("@v", t640["identity"]["version"])
    assert not [argument for argument in arguments if argument.startswith(("usrhash=", "roothash="))]


def test_the_esp_carries_the_loader_twice_and_pins_no_entry(t640: Host, layout: dict[str, Any]) -> None:
    contents = t640["disk"]["espContents"]
    assert contents[layout["esp"]["loader"]] == contents[layout["esp"]["fallback_loader"]]
    assert layout["esp"]["loader_conf"] in contents


def test_state_is_where_the_layout_says_and_there_before_anything_needs_it(t640: Host, layout: dict[str, Any]) -> None:
    state = layout["partition"][-1]
    mounted = t640["disk"]["fileSystems"][state["mount_point"]]
    assert mounted["device"] == f"/dev/disk/by-partlabel/{state['label']}"
    assert mounted["fsType"] == state["filesystem"]
    assert mounted["neededForBoot"]
    assert t640["disk"]["fileSystems"]["/"]["fsType"] == "tmpfs"
    assert "ro" not in t640["disk"]["fileSystems"]["/boot"]["options"], "blessing a boot renames a file there"


class Disk:
    """A disk image in a file, and systemd-repart as the initrd runs it; file systems are left out."""

    def __init__(self, folder: Path, size_mib: int) -> None:
        self.folder, self.file = folder, folder / "disk.raw"
        with self.file.open("wb") as file:
            file.truncate(size_mib * MIB)

    def repart(self, definitions: dict[str, str], *, empty: str, write: bool) -> list[dict[str, Any]]:
        """What systemd-repart does with these definitions, one entry a partition."""
        folder = self.folder / f"repart.d-{empty}-{len(definitions)}"
        folder.mkdir(exist_ok=True)
        for name, text in definitions.items():
            left_out = ("Format=", "Verity", "Minimize=", "SplitName=")
            kept = [line for line in text.splitlines() if not line.startswith(left_out)]
            (folder / f"{name}.conf").write_text("\n".join(kept) + "\n")
        done = subprocess.run(
            ["systemd-repart", f"--definitions={folder}", f"--empty={empty}", f"--dry-run={'no' if write else 'yes'}",
             "--json=short", "--no-pager", "--seed=0867da16-f251-457d-a9e8-c31f9a3c220b", str(self.file)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        start = done.stdout.find("[")
        found: list[dict[str, Any]] = json.loads(done.stdout[start:]) if start >= 0 else []
        return found

    def table(self) -> list[tuple[str, int]]:
        """Name and size in MiB of every partition, in the order of the disk."""
        said = subprocess.run(["sfdisk", "--json", str(self.file)], capture_output=True, text=True, check=True).stdout
        parts = json.loads(said)["partitiontable"]["partitions"]
        return [(part["name"], part["size"] * 512 // MIB) for part in sorted(parts, key=lambda part: part["start"])]


def build_and_start(t640: Host, folder: Path, size_mib: int) -> Disk:
    """What the builder makes, on a disk of that size, after the first boot."""
    disk = Disk(folder, size_mib)
    disk.repart(t640["disk"]["image"], empty="require", write=True)
    disk.repart(t640["disk"]["device"], empty="refuse", write=True)
    return disk


def test_the_first_boot_adds_the_other_slot_and_the_state(t640: Host, layout: dict[str, Any], tmp_path: Path) -> None:
    version = t640["identity"]["version"]
    table = build_and_start(t640, tmp_path, DISK_MIB).table()
    labels = [partition["label"].replace("@v", version) for partition in layout["partition"]]
    assert [label for label, _ in table] == labels
    fixed = [(partition["size_mib"], size) for partition, (_, size) in zip(layout["partition"], table, strict=True)]
    assert all(wanted == got for wanted, got in fixed[:-1])
    assert sum(size for _, size in table) > DISK_MIB - 8, "the state takes the rest"


def test_later_boots_change_nothing(t640: Host, tmp_path: Path) -> None:
    disk = build_and_start(t640, tmp_path, DISK_MIB)
    before = disk.file.open("rb").read(MIB)
    disk.repart(t640["disk"]["device"], empty="refuse", write=True)
    assert disk.file.open("rb").read(MIB) == before


def test_an_update_s_labels_are_kept_by_the_next_boot(t640: Host, tmp_path: Path) -> None:
    disk = build_and_start(t640, tmp_path, DISK_MIB)
    for number, label in ((4, "t640-verity_2030.1.1"), (5, "t640_2030.1.1")):
        subprocess.run(["sfdisk", "--quiet", "--part-label", str(disk.file), str(number), label], check=True)
    before = disk.table()
    disk.repart(t640["disk"]["device"], empty="refuse", write=True)
    assert disk.table() == before


def test_the_smallest_disk_the_installer_takes_has_room_for_both_slots(
    t640: Host, layout: dict[str, Any], tmp_path: Path
) -> None:
    """On a smaller one repart would drop slot B silently, so the installer refuses it by this number."""
    assert len(build_and_start(t640, tmp_path, t640["disk"]["minimumMib"]).table()) == len(layout["partition"])
