"""Fetching only what changed: real indexes and chunks by the real programs, from a real server, onto a disk image."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from appliance_release.artifacts import collect
from appliance_release.publishing import publish
from appliance_release.repository import Description, Repository
from appliance_update import download, faults
from appliance_update.chunk_tool import ChunkTool, find_tool
from appliance_update.config import Config, Paths
from appliance_update.layout import Role
from appliance_update.record import State
from appliance_update.updater import Failure, Outcome, UpdateError, Updater
from appliance_update.web import Client
from tests.appliance_update.conftest import V1, V2, V3, World
from tests.appliance_update.simulator import (
    LENGTHS,
    Build,
    SimulatedSysupdate,
    boot,
    make_device,
    pe_file,
    small_layout,
)
from tests.appliance_update.web_server import WebServer

pytestmark = pytest.mark.skipif(
    find_tool() is None or os.geteuid() != 0, reason="needs desync or casync, and loop devices"
)

TOOLS = [tool for tool in ("desync", "casync") if shutil.which(tool)]
BLOCK = 4096
OLD = random.Random(1).randbytes(220 * BLOCK)
CHANGE = b"one package changed".ljust(BLOCK)
NEW = OLD[: 70 * BLOCK] + CHANGE + OLD[70 * BLOCK : 150 * BLOCK] + CHANGE + OLD[150 * BLOCK :]
OTHER = random.Random(2).randbytes(220 * BLOCK)


def build_of(directory: Path, version: str, data: bytes) -> Build:
    """A build with this content; the verity tree is like it, and the UKI is the same but for its command line."""
    verity = b"".join(hashlib.shake_256(data[at : at + BLOCK]).digest(512) for at in range(0, len(data), BLOCK))
    verity += OTHER[: -len(verity) % BLOCK]
    root_hash = hashlib.sha256(data + verity).hexdigest()
    LENGTHS[root_hash] = len(data), len(verity)
    uki = pe_file(f"roothash={root_hash} panic=10", version) + OTHER[:300_000]
    folder = directory / f"build-{version}-standin"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"t640_{version}.data.{root_hash[:32]}.raw").write_bytes(data)
    (folder / f"t640_{version}.verity.{root_hash[32:]}.raw").write_bytes(verity)
    (folder / f"t640_{version}.efi").write_bytes(uki)
    return Build(version, folder, root_hash, data, verity, uki)


@dataclass
class Fleet:
    """A device at V1, and a publisher that makes chunk indexes."""

    world: World
    received: list[int] = field(default_factory=list)

    def publish(self, version: str, data: bytes, *, chunks: bool = True) -> Build:
        build = build_of(self.world.directory, version, data)
        publisher = replace(self.world.publisher, now=self.world.now())
        artifacts = collect((build.directory,), version)
        publish(publisher, Description(version), artifacts, level=1, chunks=chunks, unproven=True)
        return build

    def updater(self, tool: str | None = TOOLS[0]) -> Updater:
        made = self.world.updater()
        program = shutil.which(tool) if tool else None
        own = replace(made.transfer, find_tool=lambda: ChunkTool(program) if program else None)
        return replace(made, transfer=own, installer=replace(made.installer, transfer=own))

    def run(self, tool: str | None = TOOLS[0]) -> int:
        """One update; the bytes it fetched."""
        updater = self.updater(tool)
        client = updater.repository.client
        assert isinstance(client, Client)
        try:
            assert updater.run()[0] is Outcome.REBOOTING
        finally:
            self.received.append(client.received)
        return client.received

    def update(self, version: str, tool: str | None = TOOLS[0]) -> int:
        """An update to the end: booted and committed."""
        count = self.run(tool)
        assert boot(self.world.device) == version
        assert self.world.settle().store.record.state is State.COMMITTED
        return count

    def asked(self, part: str) -> list[str]:
        return [path for path, _ in self.world.server.requests if part in path]

    @property
    def targets(self) -> Path:
        return self.world.directory / "repository/targets"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, key_directory: Path) -> Path:
    """A repository with V1 and V2, which differs in two places, made once for all tests."""
    directory = tmp_path_factory.mktemp("shelf")
    publisher = Repository(directory / "repository", key_directory, time.time())
    publisher.init()
    for version, data in ((V1, OLD), (V2, NEW)):
        artifacts = collect((build_of(directory, version, data).directory,), version)
        publish(publisher, Description(version), artifacts, level=1, chunks=True, unproven=True)
    return directory / "repository"


@pytest.fixture
def fleet(quick: Path, shelf: Path, key_directory: Path) -> Iterator[Fleet]:
    """The device has V1 from its installer, and polls a repository that has V1 and V2."""
    layout_file = small_layout(quick)
    shutil.copytree(shelf, quick / "repository")
    publisher = Repository(quick / "repository", key_directory, time.time())
    trusted = quick / "repository/metadata/1.root.json"
    device = make_device(quick / "device", layout_file, build_of(quick, V1, OLD))
    build_of(quick, V2, NEW)
    server = WebServer(quick / "repository")
    config = Config(
        repository=server.url,
        paths=Paths(str(layout_file), str(trusted), str(device.state), str(device.runtime)),
    )
    yield Fleet(World(quick, layout_file, device, publisher, server, config, [], SimulatedSysupdate(device)))
    server.close()


def whole(fleet: Fleet, build_version: str = V2) -> int:
    """Bytes of the whole artifacts as served."""
    return sum(
        path.stat().st_size
        for path in fleet.targets.glob(f"t640/*t640_{build_version}.*")
        if not path.name.endswith(".caibx")
    )


# -- what is fetched --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_of_one_change_only_the_chunks_around_it_are_fetched(fleet: Fleet, tool: str) -> None:
    fetched = fleet.update(V2, tool)
    assert fetched < 0.5 * whole(fleet)  # chunks are large beside an image of a MiB
    assert not [path for path in fleet.asked("/t640/") if not path.endswith(".caibx")]
    assert fleet.world.device.content(Role.DATA, "b", len(NEW)) == NEW


@pytest.mark.parametrize("tool", TOOLS)
def test_what_only_the_standby_slot_holds_is_not_fetched_either(fleet: Fleet, tool: str) -> None:
    fleet.publish(V3, OTHER)
    fleet.update(V3, tool)
    fleet.publish(
        "2026.11.11", OLD[: 215 * BLOCK] + b"again".ljust(BLOCK)
    )  # the running version shares nothing with it, V1's slot does
    before = len(fleet.asked(".cacnk"))
    fleet.update("2026.11.11", tool)
    assert len(fleet.asked(".cacnk")) - before < 10
    assert fleet.asked("2026.11.11.data")[-1].endswith(".caibx")


def test_the_index_of_an_update_is_kept_for_the_next_one(fleet: Fleet) -> None:
    fleet.update(V2)
    shutil.rmtree(fleet.targets)  # the repository forgets what it had
    fleet.publish(V3, NEW[: 25 * BLOCK] + b"two".ljust(BLOCK) + NEW[25 * BLOCK :])
    assert fleet.update(V3) < 0.5 * whole(fleet, V3)
    kept = sorted(path.name for path in (fleet.world.device.state / "indexes").iterdir())
    assert kept == [V1, V3, V2]


def test_a_device_whose_index_nobody_has_fetches_the_whole_once_and_chunks_ever_after(fleet: Fleet) -> None:
    for path in (fleet.targets / "t640").glob(f"*{V1}*.caibx"):
        path.unlink()
    fleet.publish(V3, NEW[: 25 * BLOCK] + b"two".ljust(BLOCK) + NEW[25 * BLOCK :])
    fleet.update(V3)
    assert fleet.asked(f"{V3}.data")[-1].endswith(".zst")
    fleet.publish("2026.11.12", NEW)
    fleet.update("2026.11.12")
    assert fleet.asked("2026.11.12.data")[-1].endswith(".caibx")


def test_the_same_version_made_by_either_program_is_cut_the_same_way(fleet: Fleet, tmp_path: Path) -> None:
    """Publishers may change the program; devices would fetch all anew if it cut elsewhere."""
    if len(TOOLS) < 2:
        pytest.skip("only one of the programs is packaged here")
    (tmp_path / "content").write_bytes(NEW)
    stores = []
    for tool, sizes in (("casync", "16384:65536:262144"), ("desync", "16:64:256")):
        store = tmp_path / tool
        store.mkdir()
        index = tmp_path / f"{tool}.caibx"
        call = [tool, "make", f"--store={store}", f"--chunk-size={sizes}", str(index), str(tmp_path / "content")]
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
        stores.append(sorted(path.name for path in store.rglob("*.cacnk")))
    assert stores[0] == stores[1]


# -- falling back -----------------------------------------------------------------------------------------------------


def no_index(fleet: Fleet) -> None:
    fleet.publish(V3, NEW, chunks=False)


def index_gone(fleet: Fleet) -> None:
    next((fleet.targets / "t640").glob(f"*{V2}.data*.caibx")).unlink()


def index_broken(fleet: Fleet) -> None:
    path = next((fleet.targets / "t640").glob(f"*{V2}.data*.caibx"))
    path.write_bytes(path.read_bytes()[:-100] + bytes(100))


def index_truncated(fleet: Fleet) -> None:
    path = next((fleet.targets / "t640").glob(f"*{V2}.data*.caibx"))
    path.write_bytes(path.read_bytes()[:-100])


def every_chunk(fleet: Fleet, change: Callable[[Path], object]) -> None:
    for path in (fleet.targets / "chunks").rglob("*.cacnk"):
        change(path)


def chunks_gone(fleet: Fleet) -> None:
    every_chunk(fleet, Path.unlink)


def chunks_damaged(fleet: Fleet) -> None:
    every_chunk(fleet, lambda path: path.write_bytes(path.read_bytes()[:-5] + b"wrong"))


def chunks_are_others(fleet: Fleet) -> None:
    one = next((fleet.targets / "chunks").rglob("*.cacnk")).read_bytes()
    every_chunk(fleet, lambda path: path.write_bytes(one))


def chunks_are_bombs(fleet: Fleet) -> None:
    bomb = subprocess.run("head -c 50000000 /dev/zero | zstd -q -c", shell=True, check=True, capture_output=True).stdout
    every_chunk(fleet, lambda path: path.write_bytes(bomb))


def chunks_never_end(fleet: Fleet) -> None:
    every_chunk(fleet, lambda path: path.write_bytes(path.read_bytes() + bytes(2_000_000)))


def chunk_server_fails(fleet: Fleet) -> None:
    fleet.world.server.only, fleet.world.server.status = ".cacnk", 503


def all_is_new(fleet: Fleet) -> None:
    fleet.publish(V3, os.urandom(220 * BLOCK))


@pytest.mark.parametrize(
    "trouble",
    [
        no_index, index_gone, index_broken, index_truncated, chunks_gone, chunks_damaged, chunks_are_others,
        chunks_are_bombs, chunks_never_end, chunk_server_fails, all_is_new,
    ],
)  # fmt: skip
def test_whatever_is_wrong_with_chunks_the_whole_artifact_is_fetched(
    fleet: Fleet, trouble: Callable[[Fleet], None], caplog: pytest.LogCaptureFixture
) -> None:
    trouble(fleet)
    target = V3 if trouble in (no_index, all_is_new) else V2
    fleet.update(target)
    assert [path for path in fleet.asked(f"{target}.data") if path.endswith(".zst")]
    assert trouble is no_index or "data of " + target + " is fetched whole: " in caplog.text
    assert not (fleet.world.device.state / "downloads").exists()


def test_without_a_program_the_whole_artifact_is_fetched_and_the_index_is_kept(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.update(V2, None)
    assert "neither desync nor casync" in caplog.text
    assert (fleet.world.device.state / "indexes" / V2 / "data.caibx").exists()


@pytest.mark.parametrize("script", ["exit 1", "echo full >&2; exit 3", "for last; do :; done; echo wrong > $last"])
def test_a_program_that_fails_or_lies_costs_only_bytes(
    fleet: Fleet, script: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "casync"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    fleet.update(V2, str(program))
    assert "is fetched whole" in caplog.text


def test_a_seed_whose_node_is_touched_meanwhile_is_read_once_more(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """casync takes it for changed; what it says was recorded on the virtual T640, where udev touched the node."""
    real, touched = shutil.which(TOOLS[0]), tmp_path / "touched"
    program = tmp_path / TOOLS[0]
    program.write_text(
        f'#!/bin/sh\n[ ! -e {touched} ] || exec {real} "$@"\n'
        f"touch {touched}\necho 'Failed to run synchronizer: Stale file handle' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    fleet.update(V2, str(program))
    assert touched.exists()
    assert "fetched whole" not in caplog.text


def test_a_half_fetched_whole_is_finished_when_that_is_less(fleet: Fleet) -> None:
    server = fleet.world.server
    server.only, server.cut_after = ".zst", 600_000
    server.cuts = 1
    with pytest.raises(UpdateError):  # the link dies for good in the middle of the whole
        updater = fleet.updater(None)
        faults.set_hook(_stop_at("chunk:data", len(NEW) // (32 * 1024) - 1))
        updater.run()
    faults.set_hook(None)
    server.cut_after = None
    fleet.update(V2)
    assert [path for path in fleet.asked(".data.") if path.endswith(".zst")]
    assert fleet.asked(".data.")[-1].endswith(".zst")


def _stop_at(name: str, count: int) -> Callable[[str], None]:
    seen = []

    def hook(point: str) -> None:
        if point == name:
            seen.append(point)
            if len(seen) > count:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    return hook


# -- power cuts -------------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("tool", TOOLS)
def test_chunks_fetched_before_a_power_cut_are_not_fetched_again(fleet: Fleet, tool: str) -> None:
    pieces: list[str] = []

    def cut(name: str) -> None:
        if name == "piece:data":
            pieces.append(name)
            if len(pieces) == 2:
                raise PowerCut

    faults.set_hook(cut)
    with pytest.raises(PowerCut):
        fleet.updater(tool).run()
    faults.set_hook(None)
    kept = [path.name for path in (fleet.world.device.state / "downloads/chunks").rglob("*.cacnk")]
    assert kept
    before = len(fleet.asked(".cacnk"))
    fleet.update(V2, tool)
    again = [path.rpartition("/")[2] for path in fleet.asked(".cacnk")[before:]]
    assert again
    assert not set(again) & set(kept)


def test_a_chunk_torn_by_a_power_cut_is_fetched_anew(fleet: Fleet) -> None:
    faults.set_hook(lambda name: _raise(PowerCut) if name == "assemble:data" else None)
    with pytest.raises(PowerCut):
        fleet.updater().run()
    faults.set_hook(None)
    torn = next((fleet.world.device.state / "downloads/chunks").rglob("*.cacnk"))
    torn.write_bytes(torn.read_bytes()[:-100])
    before = len(fleet.asked(".cacnk"))
    fleet.update(V2)
    assert [path for path in fleet.asked(".cacnk")[before:] if path.endswith(torn.name)]


def _raise(error: type[BaseException]) -> None:
    raise error


def test_after_a_power_cut_at_any_place_of_the_chunks_way_the_update_goes_on(fleet: Fleet, quick: Path) -> None:
    def fresh(name: str) -> Fleet:
        world = fleet.world
        device = make_device(quick / name, world.layout_file, build_of(quick, V1, OLD))
        paths = replace(world.config.paths, state=str(device.state), runtime=str(device.runtime))
        return Fleet(
            replace(
                world, device=device, config=replace(world.config, paths=paths), rebooted=[],
                writer=SimulatedSysupdate(device),
            )
        )  # fmt: skip

    names: list[str] = []
    faults.set_hook(names.append)
    fresh("counted").run()
    own = [number for number, name in enumerate(names) if name.startswith(("index:", "piece:", "assemble", "stage"))]
    own += [n for n, name in enumerate(names) if name.endswith((".cacnk", ".caibx"))]
    assert len(own) > 20
    for number in sorted(own)[::4]:
        device, seen = fresh(f"cut-{number}"), []

        def cut(name: str, seen: list[str] = seen, number: int = number) -> None:
            seen.append(name)
            if len(seen) == number + 1:
                raise PowerCut

        faults.set_hook(cut)
        with pytest.raises(PowerCut):
            device.updater().run()
        faults.set_hook(None)
        device.update(V2)
        assert device.world.device.content(Role.DATA, "b", len(NEW)) == NEW
        shutil.rmtree(device.world.device.root)


# -- this device's own disk -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_a_slot_that_has_rotted_is_not_believed(fleet: Fleet, tool: str) -> None:
    part = fleet.world.device.partition(Role.DATA, "a")
    with fleet.world.device.disk.open("r+b") as disk:
        for at in (5_000, 700_000):
            disk.seek(part.start + at)
            disk.write(b"rot")
    fleet.update(V2, tool)
    assert fleet.world.device.content(Role.DATA, "b", len(NEW)) == NEW
    assert fleet.asked(".raw.zst") == []


def attached(disk: Path) -> list[str]:
    """Loop devices over a disk."""
    listed = subprocess.run(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], capture_output=True,
                            text=True, check=True).stdout  # fmt: skip
    return [line for line in listed.splitlines() if line.startswith(str(disk))]


def test_no_loop_device_is_left_behind(fleet: Fleet) -> None:
    fleet.update(V2)
    assert attached(fleet.world.device.disk) == []


def test_a_loop_device_goes_with_the_process_that_made_it_however_it_ends(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    script = f"""
import os, signal
from pathlib import Path
from appliance_update.chunk_index import Chunk, Index
from appliance_update.seeds import Place, Seed
place = Place("1", Path({str(disk)!r}), 4096, 8192)
with Seed(place, Index((Chunk("0" * 64, 0, 4096),), (1, 1, 4096)), Path()).exposed() as loop:
    assert len(loop.read_bytes()) == 4096
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -9
    end = time.monotonic() + 10
    while attached(disk) and time.monotonic() < end:
        time.sleep(0.05)
    assert attached(disk) == []


@pytest.fixture
def tiny_state(fleet: Fleet) -> Iterator[Fleet]:
    """The state directory on a tmpfs of 2 MiB."""
    fleet.world.device.state.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tiny", fleet.world.device.state], check=True)
    yield fleet
    subprocess.run(["umount", "--lazy", fleet.world.device.state], check=True)


def test_a_state_partition_that_fills_up_midway_is_said_so_and_what_was_fetched_is_kept(
    tiny_state: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = tiny_state.world
    for module in ("transfer", "download", "chunks"):
        monkeypatch.setattr(f"appliance_update.{module}.RESERVE", -(1 << 40))
    filler = world.device.state / "evidence"

    def fill(name: str) -> None:
        if name == "assemble:data":
            with pytest.raises(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(65536))
                    file.flush()

    faults.set_hook(fill)
    with pytest.raises((UpdateError, OSError)):
        tiny_state.updater().run()
    faults.set_hook(None)
    assert world.device.writes == 0
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", world.device.state], check=True)
    tiny_state.update(V2)


def test_free_space_that_others_took_stops_the_chunks_before_it_is_all_ours(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.set_hook(lambda name: monkeypatch.setattr(download, "RESERVE", 1 << 60) if name == "piece:data" else None)
    with pytest.raises(UpdateError, match="filled up meanwhile") as caught:
        fleet.run()
    faults.set_hook(None)
    monkeypatch.undo()
    assert caught.value.failure is Failure.TRANSFER
    assert list((fleet.world.device.state / "downloads/chunks").rglob("*.cacnk"))
    fleet.update(V2)


# -- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["text/html", "application/octet-stream"])
@pytest.mark.parametrize("where", [".cacnk", ".caibx"])
def test_a_captive_portal_is_named_and_no_reason_to_fetch_more(fleet: Fleet, where: str, content_type: str) -> None:
    server = fleet.world.server
    server.only, server.login_page, server.login_type = where, True, content_type
    with pytest.raises(UpdateError, match="captive portal"):
        fleet.run()
    assert not [path for path in fleet.asked(".data.") if path.endswith(".zst")]
    server.login_page = False
    fleet.update(V2)
    assert fleet.asked(".raw.zst") == []


def test_a_link_that_dies_among_the_chunks_is_an_error_and_no_reason_to_fetch_more(fleet: Fleet) -> None:
    server = fleet.world.server
    server.only, server.cut_after = ".cacnk", 0
    with pytest.raises(UpdateError, match="attempts without progress"):
        fleet.run()
    assert not [path for path in fleet.asked(".data.") if path.endswith(".zst")]
    server.cut_after = None
    fleet.update(V2)


def test_a_flapping_link_gets_all_chunks(fleet: Fleet) -> None:
    server = fleet.world.server
    server.only, server.cut_after, server.cuts = ".cacnk", 1000, 4
    fleet.update(V2)
    assert fleet.asked(".raw.zst") == []


@pytest.mark.parametrize("knob", [{"packed": True}, {"encoding": "zstd"}])
def test_chunks_that_somebody_packs_again_are_unpacked(fleet: Fleet, knob: dict[str, object]) -> None:
    fleet.world.server.only = ".cacnk"
    for name, value in knob.items():
        setattr(fleet.world.server, name, value)
    fleet.update(V2)
    assert fleet.asked(".raw.zst") == []
