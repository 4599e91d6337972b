"""The stand-in's disk is the one that layout.toml describes."""

from __future__ import annotations

from pathlib import Path

from t640 import layout as layouts
from t640.layout import SlotSource

LAYOUT = layouts.load()
SOURCE = SlotSource(
    version="2026.11.7", data=Path("/d"), data_uuid="d" * 32, verity=Path("/v"), verity_uuid="e" * 32,
    uki=Path("/u"), loader=Path("/l"), loader_conf=Path("/c"),
)  # fmt: skip


def test_a_new_disk_has_the_esp_and_slot_a_and_leaves_the_rest_to_first_boot() -> None:
    names = list(layouts.disk_definitions(LAYOUT, SOURCE))
    built = [f"{item['name']}.conf" for item in LAYOUT.raw["partition"] if item["built"] == "image"]
    assert names == built


def test_slot_a_is_the_published_files_block_by_block_with_their_uuids() -> None:
    texts = layouts.disk_definitions(LAYOUT, SOURCE)
    data = next(text for name, text in texts.items() if "data" in name)
    assert "CopyBlocks=/d\n" in data
    assert f"UUID={'d' * 32}\n" in data
    assert "Label=t640_2026.11.7\n" in data


def test_the_first_entry_is_counted_and_the_fallback_path_is_there() -> None:
    esp = next(text for name, text in layouts.disk_definitions(LAYOUT, SOURCE).items() if "esp" in name)
    assert f"/u:/EFI/Linux/t640_2026.11.7+{LAYOUT.tries}.efi" in esp
    assert "/l:/EFI/BOOT/BOOTX64.EFI" in esp


def test_slots_of_image_disk_and_device_have_one_size() -> None:
    disk = layouts.disk_definitions(LAYOUT, SOURCE)
    device = layouts.device_definitions(LAYOUT)
    for name, text in disk.items():
        sizes = [line for line in text.splitlines() if line.startswith("Size")]
        assert sizes == [line for line in device[f"repart.d/{name}"].splitlines() if line.startswith("Size")]


def test_published_parts_carry_their_partition_uuid_in_their_name() -> None:
    data = layouts.image_definitions(LAYOUT)["10-data.conf"]
    assert "SplitName=data.%U" in data
    assert "VerityDataBlockSizeBytes=4096" in data
    name = LAYOUT.release_name("data", "2026.11.7", "a" * 32)
    assert name == f"t640_2026.11.7.data.{'a' * 32}.raw.zst"
