"""What must be true of image/layout.toml whatever its numbers are. Needs no Nix."""

from __future__ import annotations

import fnmatch
import itertools
import math
from typing import Any

SMALLEST_DISK = 16 * 1000**3
"""A T640 is sold with 16 GB of eMMC, in bytes."""
LONGEST_VERSION = "2026.12.99999"
MIB = 1024 * 1024


def partitions(layout: dict[str, Any], role: str) -> list[dict[str, Any]]:
    return [partition for partition in layout["partition"] if partition["role"] == role]


def test_everything_fits_on_the_smallest_disk_with_room_for_state(layout: dict[str, Any]) -> None:
    needed = sum(partition["size_mib"] for partition in layout["partition"]) * MIB
    assert needed + 2 * MIB < SMALLEST_DISK
    assert SMALLEST_DISK - needed > 4 * 1024 * MIB, "a year of evidence and the journal want room to grow"


def test_every_label_fits_into_a_partition_table(layout: dict[str, Any]) -> None:
    for partition in layout["partition"]:
        label = partition["label"].replace("@v", LONGEST_VERSION)
        assert len(label) <= layout["slot"]["label_limit"] == 36, label


def test_both_slots_are_the_same_size(layout: dict[str, Any]) -> None:
    for role in ("data", "verity"):
        sizes = [partition["size_mib"] for partition in partitions(layout, role)]
        assert len(sizes) == 2, role
        assert len(set(sizes)) == 1, role


def test_the_hash_tree_of_a_full_slot_fits_its_partition(layout: dict[str, Any]) -> None:
    block = layout["slot"]["hash_block_size"]
    level = partitions(layout, "data")[0]["size_mib"] * MIB // layout["slot"]["data_block_size"]
    blocks = 1  # the superblock
    while level > 1:
        level = math.ceil(level * 32 / block)
        blocks += level
    assert blocks * block <= partitions(layout, "verity")[0]["size_mib"] * MIB


def test_only_the_last_partition_grows(layout: dict[str, Any]) -> None:
    assert [partition["name"] for partition in layout["partition"] if partition.get("grows")] == ["50-state"]
    assert layout["partition"][-1]["name"] == "50-state"


def test_definitions_sort_in_the_order_of_the_disk(layout: dict[str, Any]) -> None:
    names = [partition["name"] for partition in layout["partition"]]
    assert names == sorted(names)


def test_an_interrupted_update_cannot_keep_the_device_from_starting(layout: dict[str, Any]) -> None:
    for partition in layout["partition"]:
        if partition["label"] == layout["slot"]["empty_label"]:
            assert partition["priority"] > 0, "repart must be free to drop what it cannot place"


def test_no_file_of_a_release_matches_the_pattern_of_another(layout: dict[str, Any]) -> None:
    def glob(pattern: str) -> str:
        return pattern.replace("@v", "*").replace("@u", "*")

    def example(pattern: str) -> str:
        return pattern.replace("@v", LONGEST_VERSION).replace("@u", "0" * 32)

    for table in ("release", "staged"):
        names = [layout[table][role] for role in ("data", "verity", "uki")]
        for one, other in itertools.permutations(names, 2):
            # systemd 257 takes a pattern's fixed end for a prefix of the file's.
            assert not fnmatch.fnmatch(example(one), glob(other) + "*"), (one, other)


def test_the_first_boot_is_counted_like_any_other(layout: dict[str, Any]) -> None:
    assert layout["esp"]["uki_first"] == layout["esp"]["uki_name"].replace(".efi", f"+{layout['boot']['tries']}.efi")
    assert layout["boot"]["tries"] >= 2, "one bad moment is not a bad version"


def test_nothing_in_the_boot_chain_defeats_boot_counting(layout: dict[str, Any]) -> None:
    assert int(layout["esp"]["uki_mode"], 8) & 0o200, "a read-only file on FAT cannot be renamed by the loader"
    assert "default" not in layout["esp"]["loader_conf_text"]
    assert layout["esp"]["fallback_loader"] == "/EFI/BOOT/BOOTX64.EFI"


def test_every_hang_of_the_kernel_ends_in_a_restart(layout: dict[str, Any]) -> None:
    arguments = dict(argument.partition("=")[::2] for argument in layout["boot"]["command_line"])
    assert int(arguments["panic"]) > 0
    assert arguments["oops"] == "panic"


def test_the_esp_holds_both_systems_and_one_more_being_written(layout: dict[str, Any]) -> None:
    uki = 150  # MiB, generous
    assert partitions(layout, "esp")[0]["size_mib"] >= 3 * uki + layout["esp"]["uki_reserve_mib"]
