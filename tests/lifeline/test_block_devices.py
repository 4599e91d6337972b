"""The same on real block devices: loop devices as partitions, written and read past the page cache."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Iterator

import pytest

from appliance_update.layout import Role
from tests.appliance_update.simulator import boot
from tests.lifeline.conftest import V1, V2, World

pytestmark = pytest.mark.exhaustive


@contextlib.contextmanager
def partitions(world: World) -> Iterator[None]:
    """The standby's partitions as loop devices over the disk image."""
    attached = []
    try:
        for role in (Role.VERITY, Role.DATA):
            entry = world.device.partition(role, "b")
            command = ["losetup", "--find", "--show", "--offset", str(entry.start), "--sizelimit", str(entry.size)]
            done = subprocess.run([*command, str(world.device.disk)], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no loop device can be had: {done.stderr.strip()}")
            attached.append(done.stdout.strip())
            name = f"nvme0n1p{entry.number}"
            (world.root / "dev" / name).symlink_to(attached[-1])
            (world.root / f"sys/devices/nvme0n1/{name}/size").write_text(f"{entry.size // 512}\n")
        yield
    finally:
        for device in attached:
            subprocess.run(["losetup", "--detach", device], check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
def test_it_writes_partitions_and_reads_them_back(world: World) -> None:
    build = world.publish(V2)
    with partitions(world):
        done = world.run("run", "--now")
        assert done.returncode == 0, done.stdout + done.stderr
    assert world.device.content(Role.DATA, "b", len(build.data)) == build.data
    assert world.device.content(Role.VERITY, "b", len(build.verity)) == build.verity
    assert boot(world.device) == V2


@pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
def test_a_kernel_that_sees_another_size_than_the_table_is_refused(world: World) -> None:
    world.publish(V2)
    with partitions(world):
        number = world.device.layout.number(Role.DATA, "b")
        (world.root / f"sys/devices/nvme0n1/nvme0n1p{number}/size").write_text("8\n")
        assert world.run("run", "--now").returncode == 5
    assert "disagree about the size" in world.status()["detail"]
    assert world.device.ukis() == [f"t640_{V1}.efi"]


def broken(world: World, program: str, script: str) -> World:
    """Put a shim before one of the programs; `$real` is the true one."""
    shims = world.directory / "shims"
    shims.mkdir()
    path = shims / program
    path.write_text(f'#!{world.tools}/sh\nreal="{(world.tools / program).resolve()}"\n{script}\n')
    path.chmod(0o755)
    for tool in world.tools.iterdir():
        if tool.name != program:
            (shims / tool.name).symlink_to(tool.resolve())
    return dataclasses.replace(world, tools=shims)


FAILURES = {
    "a disk that forgets what is written": (
        "dd", 'case "$*" in *oflag=seek_bytes*) cat >/dev/null ;; *) exec "$real" "$@" ;; esac', "reads back",
    ),
    "a disk with write errors": (
        "dd", 'case "$*" in *oflag=seek_bytes*) exit 1 ;; *) exec "$real" "$@" ;; esac', "",
    ),
    "a table that cannot be written": (
        "sfdisk", 'case "$*" in *--no-reread*) exit 1 ;; *) exec "$real" "$@" ;; esac', "partition table",
    ),
    "a table that forgets what is written": (
        "sfdisk", 'case "$*" in *--no-reread*) cat >/dev/null ;; *) exec "$real" "$@" ;; esac', "does not carry",
    ),
    "a full ESP": ("df", "echo Avail; echo 1000", "bytes free"),
    "an ESP that takes no rename": (
        "mv", 'case "$*" in *+3.efi) exit 1 ;; *) exec "$real" "$@" ;; esac', "",
    ),
    "a zstd that dies": ("zstd", "exit 1", "this zstd is broken"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_what_fails_is_said_and_nothing_is_armed_and_the_next_run_repairs_it(world: World, name: str) -> None:
    program, script, words = FAILURES[name]
    world.publish(V2)
    done = broken(world, program, script).run("run", "--now")
    assert done.returncode == (4 if program == "zstd" else 6), done.stdout + done.stderr
    assert words in world.status()["detail"]
    assert world.device.ukis() == [f"t640_{V1}.efi"]
    assert not world.rebooted
    assert boot(world.device) == V1
    assert world.run("run", "--now").returncode == 0
    assert boot(world.device) == V2
