"""The lifeline on a simulated device: it engages, writes the other slot, and the boot loader's counter decides."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import pytest

from appliance_update.gpt import read_table
from appliance_update.layout import Role
from tests.appliance_update.simulator import boot, make_build
from tests.lifeline.conftest import V1, V2, Keys, World, make_world


def test_it_stands_by_while_the_updater_is_in_contact(world: World) -> None:
    world.publish(V2)
    done = world.run()
    assert done.returncode == 0, done.stderr
    assert world.status()["state"] == "standing-by"
    assert world.server.requests == []
    assert world.device.ukis() == [f"t640_{V1}.efi"]


def test_after_three_silent_days_it_installs_what_is_signed_and_restarts_on_trial(world: World) -> None:
    build = world.publish(V2)
    world.silent_for(73)
    done = world.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert world.rebooted
    assert world.device.ukis() == [f"t640_{V1}.efi", f"t640_{V2}+3.efi"]
    data, verity = (world.device.partition(role, "b") for role in (Role.DATA, Role.VERITY))
    assert (data.uuid, verity.uuid) == (build.data_uuid, build.verity_uuid)
    assert (data.label, verity.label) == (f"t640_{V2}", f"t640-verity_{V2}")
    assert (data.type, verity.type) == ("root", "root-verity")
    assert data.flags == verity.flags == 1 << 60
    assert world.device.content(Role.DATA, "b", len(build.data)) == build.data
    assert boot(world.device) == V2
    assert world.device.ukis() == [f"t640_{V1}.efi", f"t640_{V2}.efi"]


def test_the_partition_table_is_the_same_but_for_the_slot_it_wrote(world: World) -> None:
    before = read_table(world.device.disk)
    world.publish(V2)
    assert world.run("run", "--now").returncode == 0
    after = read_table(world.device.disk)
    written = {world.device.layout.number(role, "b") for role in (Role.DATA, Role.VERITY)}
    for old, new in zip(before, after, strict=True):
        assert (old.number, old.start, old.size) == (new.number, new.start, new.size)
        if old.number not in written:
            assert old == new


def test_the_marker_of_a_broken_updater_engages_at_once(world: World) -> None:
    world.publish(V2)
    (world.root / "var/lib/appliance-update/updater-broken").write_text("the rehearsal failed: no python\n")
    assert world.run().returncode == 0
    assert boot(world.device) == V2
    history = (world.root / "var/lib/appliance-update/history.jsonl").read_text()
    assert "lifeline_installed" in history
    assert "no python" in history


def test_the_updater_reads_the_history_that_the_lifeline_writes(world: World) -> None:
    from appliance_update import history

    world.publish(V2, note="a note")
    (world.root / "var/lib/appliance-update/updater-broken").write_text('it said "no"\\\n\x01 and more\n')
    assert world.run().returncode == 0
    entries, damaged = history.read(world.root / "var/lib/appliance-update/history.jsonl")
    assert damaged == 0
    assert [(entry.event, entry.version, entry.from_version) for entry in entries] == [("lifeline_installed", V2, V1)]


def days_of_rehearsals(world: World, days: int, *, metadata: bool = False) -> None:
    """One start and one rehearsal that passes a day; with metadata also a check of the real repository."""
    marks = ["last-contact", "last-metadata"] if metadata else ["last-contact"]
    for day in range(days):
        for name in marks:
            mark = world.root / "var/lib/appliance-update" / name
            mark.touch()
            os.utime(mark, (time.time() + day,) * 2)
        (world.root / "proc/sys/kernel/random/boot_id").write_text(f"boot-{day}\n")
        (world.root / "proc/uptime").write_text(f"{24 * 3600}.0 0.0\n")
        assert world.run().returncode == 0


def test_rehearsals_that_pass_do_not_hide_that_the_repository_is_out_of_reach(world: World) -> None:
    world.publish(V2)
    days_of_rehearsals(world, 13)
    assert world.status()["state"] == "standing-by"
    assert world.server.requests == []
    days_of_rehearsals(world, 2)
    history = (world.root / "var/lib/appliance-update/history.jsonl").read_text()
    assert "no verified metadata for 336 h, 336 h are allowed" in history
    assert world.rebooted
    assert boot(world.device) == V2


def test_verified_metadata_keeps_it_asleep(world: World) -> None:
    world.publish(V2)
    days_of_rehearsals(world, 15, metadata=True)
    assert world.status()["state"] == "standing-by"
    assert world.server.requests == []


def unfetched(world: World, hours: int, uptime: int = 9000) -> None:
    (world.root / "var/lib/appliance-update/last-contact").touch()
    state = world.root / "var/lib/appliance-lifeline"
    state.mkdir(parents=True, exist_ok=True)
    (state / "silence-metadata").write_text(f"{hours * 3600} 1 another-boot none\n")
    (world.root / "proc/uptime").write_text(f"{uptime}.0 0.0\n")


def test_zero_hours_of_metadata_are_never(world: World) -> None:
    world.publish(V2)
    world.settings["METADATA_HOURS"] = "0"
    unfetched(world, 9999)
    assert world.run().returncode == 0
    assert world.status()["state"] == "standing-by"
    assert world.server.requests == []


def test_without_metadata_too_the_updater_has_its_first_hour(world: World) -> None:
    world.publish(V2)
    unfetched(world, 400, uptime=120)
    assert world.run().returncode == 0
    assert "no verified metadata for 400 h" in world.status()["detail"]
    assert "first hour" in world.status()["detail"]
    assert world.server.requests == []


def test_a_dead_repository_only_makes_it_ask_while_what_runs_is_offered(world: World) -> None:
    world.publish(V1)
    unfetched(world, 400)
    before = world.device.disk.read_bytes(), world.device.ukis()
    for _ in range(3):
        assert world.run().returncode == 0
        assert "which is what runs" in world.status()["detail"]
    assert (world.device.disk.read_bytes(), world.device.ukis()) == before
    assert not world.rebooted
    world.publish(V2)
    assert world.run().returncode == 0
    assert boot(world.device) == V2


@pytest.mark.parametrize("torn", [b'{"at": 1.0, "ev', b"\0\0"])
def test_a_line_of_the_history_that_a_power_cut_tore_takes_no_other_with_it(world: World, torn: bytes) -> None:
    from appliance_update import history

    world.publish(V2)
    path = world.root / "var/lib/appliance-update/history.jsonl"
    path.write_bytes(torn)
    assert world.run("run", "--now").returncode == 0
    entries, _ = history.read(path)
    assert [(entry.event, entry.version) for entry in entries] == [("lifeline_installed", V2)]
    assert path.read_bytes().startswith(torn + b'\n{"at": ')


def test_what_fails_its_trial_is_not_tried_again_until_a_higher_number(world: World) -> None:
    world.publish(V2)
    assert world.run("run", "--now").returncode == 0
    assert boot(world.device, healthy={V1}) == V1
    assert world.device.ukis() == [f"t640_{V1}.efi", f"t640_{V2}+0-3.efi"]
    world.rebooted  # noqa: B018 # forgotten
    again = world.run("run", "--now")
    assert again.returncode == 0
    assert "was tried here and failed" in world.status()["detail"]
    assert not world.rebooted
    world.run("run", "--now")
    history = (world.root / "var/lib/appliance-update/history.jsonl").read_text()
    assert history.count("lifeline_failed") == 1
    world.publish(V2)  # the same build, a higher number: the provider says try again
    assert world.run("run", "--now").returncode == 0
    assert boot(world.device) == V2


def test_pieces_that_are_in_the_slot_already_are_not_fetched(world: World) -> None:
    world.publish(V2)
    assert world.run("run", "--now").returncode == 0
    assert boot(world.device, healthy={V1}) == V1
    with world.device.disk.open("r+b") as disk:  # one bit of the standby rots
        disk.seek(world.device.partition(Role.DATA, "b").start + 70_000)
        disk.write(b"rot")
    world.server.requests.clear()
    assert world.run("run", "--now").returncode == 0
    pieces = [path for path, _ in world.server.requests if "pieces/" in path]
    assert len(pieces) <= 2  # the rotten one, and the kernel image that was taken away before
    assert boot(world.device) == V2


POINTS = (
    "fence", "verity:write", "verity:written", "data:write", "data:written", "verity:mark", "data:mark", "uki:write",
    "uki:written", "arm", "armed",
)  # fmt: skip


@pytest.mark.exhaustive
@pytest.mark.parametrize("point", POINTS)
def test_a_power_cut_anywhere_leaves_a_slot_that_boots_and_the_next_run_goes_on(world: World, point: str) -> None:
    if point == "fence":  # something must be there to be taken away
        (world.device.uki_directory / "t640_2026.10.9+0-3.efi").write_bytes(b"MZ")
    world.publish(V2)
    (world.root / "run/appliance-update/faults-allowed").parent.mkdir(exist_ok=True)
    (world.root / "run/appliance-update/faults-allowed").touch()
    done = world.run("run", "--now", APPLIANCE_UPDATE_FAULT=f"{point}:kill")
    assert done.returncode == -9, done.stdout
    up = boot(world.device)
    assert up == V1 or (point == "armed" and up == V2)
    if up == V1:
        done = world.run("run", "--now")
        assert done.returncode == 0, done.stdout + done.stderr
        assert boot(world.device) == V2


def test_a_fault_is_only_injected_where_the_rig_allows_it(world: World) -> None:
    world.publish(V2)
    assert world.run("run", "--now", APPLIANCE_UPDATE_FAULT="arm:kill").returncode == 0


def test_an_armed_system_is_not_written_again_only_restarted_into(world: World) -> None:
    world.publish(V2)
    world.settings["WINDOW"] = closed_window()
    assert world.run("run", "--now").returncode == 0
    assert world.status()["state"] == "armed"
    assert not world.rebooted
    world.server.requests.clear()
    world.settings.clear()
    assert world.run("run", "--now").returncode == 0
    assert world.rebooted
    assert [path for path, _ in world.server.requests if "pieces" in path] == []


def closed_window() -> str:
    """An hour that is half a day away."""
    now = datetime.datetime.now(datetime.UTC)
    start, end = (now + datetime.timedelta(hours=hours) for hours in (11, 12))
    return f"{start:%H:%M}-{end:%H:%M}"


def test_a_loader_that_ignores_what_is_armed_is_not_asked_for_ever(world: World) -> None:
    world.publish(V2)
    world.silent_for(100)
    codes = [world.run().returncode for _ in range(4)]
    assert codes == [0, 0, 0, 6]
    assert "3 restarts did not boot it" in world.status()["detail"]


def test_the_nixos_flavour_is_written_alike(tmp_path: Path, keys: Keys, tools: Path) -> None:
    nixos = make_world(tmp_path, keys, tools, "nixos")
    nixos.publish(V2, make_build(tmp_path, V2, flavour="nixos"))
    done = nixos.run("run", "--now")
    nixos.server.close()
    assert done.returncode == 0, done.stdout
    assert nixos.device.partition(Role.DATA, "b").type == "usr"
    assert boot(nixos.device) == V2
