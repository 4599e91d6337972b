"""The recovery on the ESP: it travels with releases, and is replaced only when two of them have proved themselves."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from appliance_update import faults, recovery
from tests.appliance_update.conftest import V2, V3, World
from tests.appliance_update.simulator import boot, make_build

R1, R2 = "2026.11.5", "2026.11.6"
V4 = "2026.12.1"


def recovery_image(version: str, *, image_id: str = "t640-recovery", line: str = "panic=10 quiet") -> bytes:
    """The least PE file with .osrel and .cmdline, as large as a small kernel."""
    texts = {".osrel": f'NAME="Appliance"\nIMAGE_ID={image_id}\nIMAGE_VERSION={version}\n', ".cmdline": line}
    header = bytearray(0x200)
    header[:2] = b"MZ"
    struct.pack_into("<I", header, 0x3C, 0x80)
    header[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<HH", header, 0x84, 0x8664, len(texts))
    body = b""
    for index, (name, text) in enumerate(texts.items()):
        raw = text.encode()
        struct.pack_into(
            "<8sIIII", header, 0x98 + 40 * index, name.encode(), len(raw), 0x1000, 0x200, 0x200 + len(body)
        )
        body += raw.ljust(0x200, b"\0")
    return bytes(header) + body + version.encode() * 2000


def release(world: World, version: str, carried: str = "", **changes: str) -> None:
    """Publish a version that carries a recovery, update to it, and let it prove itself."""
    build = make_build(world.directory, version)
    if carried:
        (build.directory / f"t640-recovery_{carried}.efi").write_bytes(recovery_image(carried, **changes))
    world.put(build)
    world.updater().run()
    assert boot(world.device) == version
    world.settle()


def on_esp(world: World) -> list[str]:
    return [name for name in world.device.ukis() if "recovery" in name]


def install_first(world: World) -> None:
    (world.device.uki_directory / "t640-recovery_2026.10.1+3.efi").write_bytes(recovery_image("2026.10.1"))


def test_a_recovery_waits_for_two_good_releases(world: World) -> None:
    install_first(world)
    release(world, V2, R1)
    world.updater().run()
    assert on_esp(world) == ["t640-recovery_2026.10.1+3.efi"]
    release(world, V3)
    world.updater().run()
    assert on_esp(world) == [f"t640-recovery_{R1}+3.efi"]
    assert (world.device.uki_directory / f"t640-recovery_{R1}+3.efi").read_bytes() == recovery_image(R1)
    assert ("recovery", "") in world.events()


def test_where_there_is_none_one_good_release_is_enough(world: World) -> None:
    release(world, V2, R1)
    world.updater().run()
    assert on_esp(world) == [f"t640-recovery_{R1}+3.efi"]


def test_it_lags_behind_when_every_release_brings_one(world: World) -> None:
    install_first(world)
    release(world, V2, R1)
    world.updater().run()
    release(world, V3, R2)
    world.updater().run()
    assert on_esp(world) == [f"t640-recovery_{R1}+3.efi"]
    release(world, V4)
    world.updater().run()
    assert on_esp(world) == [f"t640-recovery_{R1}+3.efi"], "the one of V3 was not offered again"


def test_what_sorts_before_the_slots_or_boots_one_is_refused(world: World) -> None:
    release(world, V2, R1, image_id="t640")
    world.updater().run()
    assert on_esp(world) == []
    assert any(event == "recovery" for event, _ in world.events())


def test_one_that_names_a_root_hash_is_refused(world: World) -> None:
    release(world, V2, R1, line=f"roothash={'a' * 64}")
    world.updater().run()
    assert on_esp(world) == []


def test_an_update_does_without_a_recovery_that_cannot_be_fetched(world: World) -> None:
    build = make_build(world.directory, V2)
    (build.directory / f"t640-recovery_{R1}.efi").write_bytes(recovery_image(R1))
    world.put(build)
    world.server.login_page, world.server.only = True, "recovery"
    world.updater().run()
    assert boot(world.device) == V2
    world.settle()
    world.updater().run()
    assert on_esp(world) == []
    world.server.login_page = False
    world.updater().run()
    assert on_esp(world) == [f"t640-recovery_{R1}+3.efi"]


@pytest.mark.parametrize("point", ["recovery:write", "recovery:rename", "unlink:t640-recovery_2026.10.1+3.efi"])
def test_a_power_cut_leaves_a_recovery_that_boots(world: World, point: str) -> None:
    install_first(world)
    release(world, V2, R1)
    world.updater().run()
    release(world, V3)

    def cut(name: str) -> None:
        if name == point:
            raise KeyboardInterrupt

    faults.set_hook(cut)
    with pytest.raises(KeyboardInterrupt):
        world.updater().run()
    faults.set_hook(None)
    assert on_esp(world)
    world.updater().run()
    world.updater().run()
    assert on_esp(world) == [f"t640-recovery_{R1}+3.efi"]


def test_a_full_esp_keeps_the_old_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    install_first(world)
    release(world, V2, R1)
    world.updater().run()
    release(world, V3)
    monkeypatch.setattr(recovery.shutil, "disk_usage", lambda _path: recovery.shutil._ntuple_diskusage(10, 9, 1))
    world.updater().run()
    assert on_esp(world) == ["t640-recovery_2026.10.1+3.efi"]


def test_an_unreadable_memory_is_no_reason_to_stop(world: World) -> None:
    world.settle()
    (world.device.state / "recovery.json").write_text("{")
    release(world, V2, R1)
    world.updater().run()
    assert on_esp(world) == [f"t640-recovery_{R1}+3.efi"]


def test_slot_entries_are_not_taken_for_recoveries_nor_the_other_way_round(world: World, tmp_path: Path) -> None:
    from appliance_update.entries import entries

    install_first(world)
    assert [entry.version for entry in entries(world.device.esp, world.device.layout)] == ["2026.11.1"]
    assert list(recovery.on_esp(world.device.esp, world.device.layout)) == ["2026.10.1"]
