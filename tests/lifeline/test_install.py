"""The lifeline on a simulated device: it engages, writes the other slot, and the boot loader's counter decides."""

from __future__ import annotations

from appliance_update.gpt import read_table
from appliance_update.layout import Role
from tests.appliance_update.simulator import boot
from tests.lifeline.conftest import V1, V2, World


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
