"""Facts about the box: each reader tells what it knows, and says why when it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.clock import ClockState
from compliance_agent.facts.clock import EARLIEST, SystemClock
from compliance_agent.facts.release import read_release, root_hash
from compliance_agent.facts.slot import SlotUnknown, read_slot, slot_or_reason
from compliance_agent.facts.update import read_history, update_status

HASH_A, HASH_B = "aa" * 16 + "bb" * 16, "cc" * 16 + "dd" * 16
DATA_TYPE, VERITY_TYPE = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"


def uuid_of(root_hash: str, half: int) -> str:
    digits = root_hash[half * 32 : half * 32 + 32]
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Box:
    """A file tree that looks like a booted appliance."""

    def __init__(self, root: Path, booted: str) -> None:
        self.root = root
        (root / "proc").mkdir(parents=True)
        (root / "proc/cmdline").write_text(f"quiet roothash={booted} panic=10\n")
        parts = [
            (2, uuid_of(HASH_A, 1), VERITY_TYPE, "t640-verity_2026.11.0"),
            (3, uuid_of(HASH_A, 0), DATA_TYPE, "t640_2026.11.0"),
            (4, uuid_of(HASH_B, 1), VERITY_TYPE, "t640-verity_2026.11.1"),
            (5, uuid_of(HASH_B, 0), DATA_TYPE, "t640_2026.11.1"),
        ]
        for number, uuid, kind, label in parts:
            self.partition(f"nvme0n1p{number}", number, uuid, kind, label)

    def partition(self, name: str, number: int, uuid: str, kind: str, label: str) -> None:
        major_minor = ("259", str(number + 10 * len(name)))
        device = self.root / "sys/class/block" / name
        device.mkdir(parents=True)
        (device / "uevent").write_text(
            f"MAJOR={major_minor[0]}\nMINOR={major_minor[1]}\nDEVNAME={name}\nDEVTYPE=partition\nPARTN={number}\n"
            f"PARTNAME={label}\n"
        )
        udev = self.root / "run/udev/data"
        udev.mkdir(parents=True, exist_ok=True)
        (udev / f"b{':'.join(major_minor)}").write_text(
            f"S:disk/by-partuuid/{uuid}\nE:ID_PART_ENTRY_UUID={uuid}\nE:ID_PART_ENTRY_TYPE={kind}\n"
        )


@pytest.mark.parametrize(("booted", "letter"), [(HASH_A, "a"), (HASH_B, "b")])
def test_the_booted_slot_is_the_one_of_the_root_hash(tmp_path: Path, booted: str, letter: str) -> None:
    slot = read_slot(Box(tmp_path, booted).root)
    assert (slot.letter, slot.partition.label) == (letter, f"t640_2026.11.{'01'['ab'.index(letter)]}")


def test_a_box_that_was_not_booted_from_a_slot_says_so(tmp_path: Path) -> None:
    Box(tmp_path, HASH_A)
    (tmp_path / "proc/cmdline").write_text("root=LABEL=nixos quiet\n")
    with pytest.raises(SlotUnknown, match="names no verity root hash"):
        read_slot(tmp_path)


def test_a_root_hash_without_a_partition_is_no_slot(tmp_path: Path) -> None:
    Box(tmp_path, "ee" * 32)
    assert slot_or_reason(tmp_path).startswith("no partition has the UUID eeeeeeee-")


def test_a_copy_of_the_disk_beside_it_makes_the_slot_unknown(tmp_path: Path) -> None:
    box = Box(tmp_path, HASH_A)
    box.partition("sdb3", 3, uuid_of(HASH_A, 0), DATA_TYPE, "t640_2026.11.0")
    with pytest.raises(SlotUnknown, match="have the same UUID"):
        read_slot(tmp_path)


def test_without_the_partitions_type_the_slot_is_unknown_and_never_a(tmp_path: Path) -> None:
    box = Box(tmp_path, HASH_B)
    for path in (box.root / "run/udev/data").iterdir():
        path.write_text("\n".join(line for line in path.read_text().splitlines() if "TYPE" not in line))
    with pytest.raises(SlotUnknown):
        read_slot(tmp_path)


@given(st.binary(max_size=200))
def test_no_command_line_makes_the_reader_raise(tmp_path_factory: pytest.TempPathFactory, line: bytes) -> None:
    root = tmp_path_factory.mktemp("box")
    (root / "proc").mkdir()
    (root / "proc/cmdline").write_bytes(line)
    assert root_hash(root) is None or len(root_hash(root) or "") == 64
    assert slot_or_reason(root)


def test_the_release_is_that_of_the_image_and_unknown_is_empty(tmp_path: Path) -> None:
    assert read_release(tmp_path).version == ""
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text('# c\nID=debian\nIMAGE_ID="t640"\nIMAGE_VERSION=2026.11.3\nBAD="x\n')
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text(f"usrhash={HASH_A}\n")
    release = read_release(tmp_path)
    assert (release.id, release.version, release.digest) == ("t640", "2026.11.3", HASH_A)


def test_a_clock_before_this_program_existed_is_never_synchronised(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(time, "time", lambda: EARLIEST - 1)
    assert SystemClock().read().state is ClockState.UNSYNCHRONISED


def test_the_clock_tells_the_kernels_word_and_this_boots_id() -> None:
    reading = SystemClock().read()
    assert reading.state in ClockState
    assert reading.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_the_updaters_status_travels_with_the_check_in(tmp_path: Path) -> None:
    status = {
        "state": "downloading",
        "candidate_version": "2026.11.2",
        "detail": "12 of 80 MiB",
        "slots": {"a": {"version": "2026.11.1", "state": "booted"}, "b": {"version": "2026.11.0", "state": "standby"}},
        "of_the_future": [1, 2],
    }
    (tmp_path / "status.json").write_text(json.dumps(status))
    said = update_status(tmp_path / "status.json")
    assert (said.state, said.version, said.previous_version) == ("downloading", "2026.11.2", "2026.11.0")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"state": 3}', b'{"state": "' + b"x" * 400_000])
def test_an_unreadable_status_is_unknown_with_the_reason(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "status.json").write_bytes(content)
    said = update_status(tmp_path / "status.json")
    assert said.state == "unknown"
    assert "status.json" in said.detail


def test_the_journal_is_read_over_torn_lines_and_its_turning_over(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl.1").write_bytes(b'{"event": "installed", "order_id": "o1"}\n')
    (tmp_path / "history.jsonl").write_bytes(b'{"event": "trial_st\n\xff\n{"event": "committed", "order_id": "o1"}\n')
    assert [event.event for event in read_history(tmp_path / "history.jsonl")] == ["installed", "committed"]
