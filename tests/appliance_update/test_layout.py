"""layout.toml and the definitions that follow from it, held against the real systemd-repart where it is at hand."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from appliance_update.layout import LayoutError, Role, compiled, definitions, load
from tests.appliance_update.simulator import LAYOUT

LAYOUT_NOW = load(LAYOUT)
FLAVOURS = sorted(LAYOUT_NOW.flavour)


def parsed(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_module_renders_what_an_image_needs(tmp_path: Path, flavour: str) -> None:
    command = [sys.executable, "-m", "appliance_update.layout", "render", "--layout", str(LAYOUT)]
    subprocess.run([*command, "--flavour", flavour, str(tmp_path)], check=True)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == sorted(
        [f"{partition.name}.conf" for partition in LAYOUT_NOW.partition]
        + ["10-verity.transfer", "20-data.transfer", "90-uki.transfer"]
    )


def test_an_unknown_flavour_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "appliance_update.layout", "render", "--layout", str(LAYOUT)]
    done = subprocess.run(
        [*command, "--flavour", "vanilla", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "vanilla" in done.stderr


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_transfer_protects_the_running_version_and_reads_only_what_was_verified(flavour: str) -> None:
    for name, text in definitions(LAYOUT_NOW, flavour).items():
        if not name.endswith(".transfer"):
            continue
        transfer = parsed(text)
        assert dict(transfer["Transfer"]) == {"ProtectVersion": "%A", "Verify": "no"}
        assert transfer["Source"]["Type"] == "regular-file"
        assert transfer["Source"]["Path"] == "/var/lib/appliance-update/staging"
        assert transfer["Target"]["InstancesMax"] == "2"


def test_the_kernel_image_comes_last_writable_and_with_a_counter() -> None:
    texts = definitions(LAYOUT_NOW, "standin")
    last = sorted(name for name in texts if name.endswith(".transfer"))[-1]
    target = parsed(texts[last])["Target"]
    assert target["Path"] == "/EFI/Linux"
    assert target["Mode"] == "0644", "0444 becomes FAT's read-only attribute, and the loader no longer counts"
    assert (target["TriesLeft"], target["TriesDone"]) == ("3", "0")


def test_no_source_pattern_ends_like_the_beginning_of_another() -> None:
    """systemd 257 takes a pattern's fixed end for a prefix."""
    for names in (LAYOUT_NOW.release, LAYOUT_NOW.staged):
        for own in (names.data, names.verity, names.uki):
            for other in (names.data, names.verity, names.uki):
                version = other.replace("@v", "2026.11.1").replace("@u", "0" * 32)
                assert (compiled(own).match(version) is not None) == (own == other)


def test_only_the_empty_slot_may_be_dropped_by_repart() -> None:
    texts = definitions(LAYOUT_NOW, "standin")
    dropped = [name for name, text in texts.items() if "Priority=10" in text]
    assert dropped == ["repart.d/30-verity-b.conf", "repart.d/40-data-b.conf"]
    assert all("Label=_empty" in texts[name] and "NoAuto=yes" in texts[name] for name in dropped)


def test_slots_are_equal_and_the_hash_tree_fits() -> None:
    by_slot = {
        slot: [LAYOUT_NOW.partition[LAYOUT_NOW.number(role, slot) - 1].size for role in (Role.VERITY, Role.DATA)]
        for slot in "ab"
    }
    assert by_slot["a"] == by_slot["b"]
    verity, data = by_slot["a"]
    blocks, tree = data // LAYOUT_NOW.slot.data_block_size, 1
    while blocks > 1:
        blocks = -(-blocks * 32 // LAYOUT_NOW.slot.hash_block_size)
        tree += blocks
    assert tree * LAYOUT_NOW.slot.hash_block_size <= verity


def test_the_longest_version_fits_into_a_label(tmp_path: Path) -> None:
    path = tmp_path / "layout.toml"
    path.write_text(
        LAYOUT.read_text().replace('data_label = "t640_@v"', 'data_label = "a-very-long-appliance-name_@v"')
    )
    with pytest.raises(LayoutError, match="36"):
        load(path)


@pytest.mark.parametrize("text", ["", "format = 'one'", "format = 1\n[image]", "\0", "[[partition]]\nname = 1"])
def test_a_layout_that_cannot_be_read_names_file_and_reason(tmp_path: Path, text: str) -> None:
    path = tmp_path / "layout.toml"
    path.write_text(text)
    with pytest.raises(LayoutError, match=re.escape(str(path))):
        load(path)


def test_a_missing_layout_says_who_must_bring_it(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="the image must carry"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_real_systemd_repart_makes_this_disk_and_then_finds_nothing_to_do(tmp_path: Path, flavour: str) -> None:
    """On a sparse image file, twice: what first boot makes, every later boot must leave alone."""
    program = shutil.which("systemd-repart")
    assert program, "install systemd-repart: it is part of this repository's setup"
    from appliance_update.layout import write

    texts = definitions(LAYOUT_NOW, flavour)
    # Building file systems needs their tools; the table is what this is about.
    write({name: re.sub(r"(?m)^Format=.*\n", "", text) for name, text in texts.items()}, tmp_path)
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text("ID=debian\nIMAGE_ID=t640\nIMAGE_VERSION=2026.11.1\n")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    disk = tmp_path / "disk.raw"
    command = [
        program,
        "--json=short",
        "--no-pager",
        "--dry-run=no",
        f"--root={root}",
        f"--definitions={tmp_path}/repart.d",
    ]
    subprocess.run([*command, "--empty=create", "--size=12G", disk], check=True, capture_output=True)
    again = subprocess.run([*command, disk], check=True, capture_output=True, text=True)
    table = json.loads(again.stdout)
    assert {row["activity"] for row in table} == {"unchanged"}
    assert [row["label"] for row in table] == [
        "ESP", "t640-verity_2026.11.1", "t640_2026.11.1", "_empty", "_empty", "state",
    ]  # fmt: skip
    from appliance_update.gpt import read_table

    ours = read_table(disk)
    assert [entry.size for entry in ours][:5] == [partition.size for partition in LAYOUT_NOW.partition][:5]
    kind = LAYOUT_NOW.flavour[flavour]
    assert [entry.type for entry in ours] == [
        "esp", kind.verity_type, kind.data_type, kind.verity_type, kind.data_type, "linux-generic",
    ]  # fmt: skip
