"""What an update costs: bytes for a change of one package, and time beside dd. Needs root, no virtual machine.

`python -m benchmarks update` builds two stand-in images that differ in one package, publishes both, and updates a
device from one to the other: the real updater, a real web server, real systemd-sysupdate (the tool root's), a loop
device with the appliance's own partition table. Simulated are firmware and boot alone. dd writes the same bytes to the
same places, then syncs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance_release import keys
from appliance_release.artifacts import collect
from appliance_release.publishing import publish
from appliance_release.repository import Description, Repository
from appliance_update.config import Config, Paths
from appliance_update.device import inspect
from appliance_update.gpt import read_table
from appliance_update.install import Sysupdate
from appliance_update.layout import LAYOUT_FILE, Role
from appliance_update.machine import assemble
from appliance_update.updater import Updater
from appliance_update.web import Client
from benchmarks.rows import Row
from t640 import layout as layouts
from t640 import releases, toolroot, wheels
from t640.artifacts import Artifacts
from t640.image import build
from t640.paths import REPOSITORY, cache_directory
from tests.appliance_update import simulator
from tests.appliance_update.simulator import Build, Device, make_device
from tests.appliance_update.web_server import WebServer

OLD, NEW = "2026.11.80", "2026.11.81"
PACKAGE = REPOSITORY / "agent/local-portal"
ROUNDS = 3
FLASH = (60_000_000, 250_000_000)
"""Bytes a second that a small eMMC writes and reads: what appliances of this class are sold with."""
THROTTLE = Path("/sys/fs/cgroup/blkio")
RAUC = "RAUC, by its documentation (adaptive update of an ext4 image, one package)"

# What a process of the tool root sees: the device under the name the updater gives it, and the updater's own files.
_INSIDE = """
mount --bind {tools} {tools}
mount -t proc proc {tools}/proc
mount -t sysfs sysfs {tools}/sys
for folder in dev tmp run; do mount -t tmpfs tmpfs {tools}/$folder; done
for node in null zero urandom; do touch {tools}/dev/$node; mount --bind /dev/$node {tools}/dev/$node; done
touch {tools}/dev/nvme0n1; mount --bind {disk} {tools}/dev/nvme0n1
mkdir -p {tools}{root}; mount --rbind {root} {tools}{root}
mount --bind {root}/etc/os-release {tools}/usr/lib/os-release
mount --bind {root}/boot {tools}/boot
echo ready
exec sleep infinity
"""
_SYSUPDATE = """#!/bin/sh
export SYSTEMD_ESP_PATH=/boot SYSTEMD_XBOOTLDR_PATH=/boot
exec nsenter --mount=/proc/{pid}/ns/mnt -- chroot {tools} /usr/lib/systemd/systemd-sysupdate "$@"
"""


@dataclass(frozen=True)
class Pair:
    """Two published versions that differ in one package."""

    old: Build
    new: Build
    repository: Path


def measure() -> Iterator[Row]:
    """All rows."""
    with tempfile.TemporaryDirectory(dir=cache_directory(), prefix="bench-update-") as scratch:
        pair = _published(Path(scratch))
        rounds = [_round(Path(scratch) / f"device-{number}", pair) for number in range(ROUNDS)]
        yield from _bytes(pair, rounds[0])
        yield from _seconds(rounds, "this disk")
        slow = [_round(Path(scratch) / f"flash-{number}", pair, flash=True) for number in range(ROUNDS)]
        yield from _seconds(slow, f"{FLASH[0] // 10**6} MB/s writing, {FLASH[1] // 10**6} reading", bound=1.2)


# -- the two versions -------------------------------------------------------------------------------------------------


def _published(work: Path) -> Pair:
    recipe = releases.recipe(OLD)
    changed = dataclasses.replace(releases.recipe(NEW), files={**recipe.files, **changed_package()})
    builds = [_laid_out(work, build(each)) for each in (recipe, changed)]
    keys.generate(work / "keys")
    repository = Repository(work / "repository", work / "keys", time.time())
    repository.init()
    for each in builds:
        artifacts = collect((each.directory,), each.version)
        publish(repository, Description(each.version), artifacts, chunks=True, unproven=True)
    old, new = builds
    return Pair(old, new, work / "repository")


def changed_package() -> dict[str, str]:
    """The portal's next release: one module says something more, and the version is another."""
    with zipfile.ZipFile(wheels.build_wheel(PACKAGE)) as wheel:
        names = wheel.namelist()
        module = wheel.read("local_portal/passwords.py").decode()
        metadata = next(name for name in names if name.endswith("/METADATA"))
        text = wheel.read(metadata).decode()
    place = f"/{wheels.DIST_PACKAGES}"
    lines = ["Version: 2026.11.1" if line.startswith("Version: ") else line for line in text.splitlines()]
    added = '\n\ndef hint(password: str) -> str:\n    """A sentence for people whose password is short."""\n'
    added += '    return "" if len(password) > 14 else "Longer is better: take a sentence."\n'
    return {f"{place}/local_portal/passwords.py": module + added, f"{place}/{metadata}": "\n".join(lines) + "\n"}


def _laid_out(work: Path, artifacts: Artifacts) -> Build:
    """The build's files under their published names."""
    layout, folder = layouts.load(), work / f"build-{artifacts.version}"
    folder.mkdir()
    named = (
        ("data", artifacts.data, artifacts.data_uuid),
        ("verity", artifacts.verity, artifacts.verity_uuid),
        ("uki", artifacts.uki, ""),
    )
    for kind, path, uuid in named:
        os.link(path, folder / layout.release_name(kind, artifacts.version, uuid).removesuffix(".zst"))
    root_hash = artifacts.data_uuid + artifacts.verity_uuid
    simulator.GENUINE.add(root_hash)
    contents = (path.read_bytes() for path in (artifacts.data, artifacts.verity, artifacts.uki))
    return Build(artifacts.version, folder, root_hash, *contents)


# -- one update -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """What one update took: bytes received and seconds of its parts.

    `dd` is what dd takes to write and sync the same bytes, `checked` the same with reading and hashing them afterwards.
    """

    received: int
    fetching: float
    applying: float
    dd: float
    checked: float


def _round(root: Path, pair: Pair, *, flash: bool = False) -> Round:
    device = make_device(root, REPOSITORY / "image" / LAYOUT_FILE.name, pair.old)
    server = WebServer(pair.repository)
    with _loop(device.disk) as disk, _esp(device), _sysupdate(root, disk) as program:
        updater = _updater(device, server.url, pair, program)
        client = updater.repository.client
        assert isinstance(client, Client)
        try:
            with updater.store.locked():
                updater.store.device = inspect(updater.host, updater.layout)
                updater.store.running_version = pair.old.version
                fetching = _timed(updater.fetch)
                with _slowed(disk) if flash else contextlib.nullcontext(True) as slowed:
                    if not slowed:
                        raise RuntimeError(f"there is no {THROTTLE} to slow a disk down with")
                    dd, checked = _dd(updater, disk)
                    applying = _timed(updater.apply)
        finally:
            server.close()
    return Round(client.received, fetching, applying, dd, checked)


def _updater(device: Device, url: str, pair: Pair, program: Path) -> Updater:
    trusted = pair.repository / "metadata/1.root.json"
    layout = REPOSITORY / "image" / LAYOUT_FILE.name
    paths = Paths(str(layout), str(trusted), str(device.state), str(device.runtime), str(program))
    return assemble(
        Config(repository=url, paths=paths), host=device.host, writer=Sysupdate(str(program)), reboot=lambda _: None
    )


@contextlib.contextmanager
def _loop(disk: Path, *options: str) -> Iterator[Path]:
    """A file as a block device, past the page cache like a real disk."""
    call = ["losetup", "--find", "--show", "--direct-io=on", *options, str(disk)]
    loop = subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield Path(loop)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


@contextlib.contextmanager
def _slowed(disk: Path) -> Iterator[bool]:
    """The block device at `FLASH`'s speed, by the kernel's own throttle (control groups, version 1); whether it is."""
    number = f"{os.major(disk.stat().st_rdev)}:{os.minor(disk.stat().st_rdev)}"
    knobs = [THROTTLE / f"blkio.throttle.{way}_bps_device" for way in ("write", "read")]
    if not all(os.access(knob, os.W_OK) for knob in knobs):
        yield False
        return
    try:
        for knob, speed in zip(knobs, FLASH, strict=True):
            knob.write_text(f"{number} {speed}")
        yield True
    finally:
        for knob in knobs:
            knob.write_text(f"{number} 0")


@contextlib.contextmanager
def _esp(device: Device) -> Iterator[None]:
    """A filesystem of its own in the ESP (ext4: not every kernel knows FAT), with what the simulator laid there."""
    part = read_table(device.disk)[0]
    with _loop(device.disk, "--offset", str(part.start), "--sizelimit", str(part.size)) as loop:
        subprocess.run(["mkfs.ext4", "-q", "-F", str(loop)], check=True)
        before = device.esp.rename(device.esp.with_name("boot-before"))
        device.esp.mkdir()
        subprocess.run(["mount", str(loop), str(device.esp)], check=True)
        try:
            shutil.copytree(before, device.esp, dirs_exist_ok=True)
            yield
        finally:
            subprocess.run(["umount", str(device.esp)], check=True)


@contextlib.contextmanager
def _sysupdate(root: Path, disk: Path) -> Iterator[Path]:
    """A program that is the tool root's systemd-sysupdate, seeing the device. Its surroundings are made once."""
    tools = toolroot.ensure()
    script = _INSIDE.format(tools=tools, disk=disk, root=root)
    call = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as keeper:
        try:
            assert keeper.stdout is not None
            if keeper.stdout.readline().strip() != "ready":
                raise RuntimeError("the tool root's surroundings for systemd-sysupdate could not be made")
            program = root / "sysupdate"
            program.write_text(_SYSUPDATE.format(pid=keeper.pid, tools=tools))
            program.chmod(0o755)
            yield program
        finally:
            keeper.kill()


def _dd(updater: Updater, disk: Path) -> tuple[float, float]:
    """The same three files from the staging directory to the same places, each synced; then read past the cache."""
    release, device = updater.store.record.candidate, updater.store.device
    assert release is not None
    assert device is not None
    own = device.esp / "written-by-dd"
    targets = {
        Role.VERITY: [f"of={disk}", f"seek={device.standby.verity.start}", "oflag=seek_bytes"],
        Role.DATA: [f"of={disk}", f"seek={device.standby.data.start}", "oflag=seek_bytes"],
        Role.UKI: [f"of={own}"],
    }

    def write() -> None:
        for role, target in targets.items():
            source = updater.transfer.staged(release, release.artifact(role))
            subprocess.run(["dd", f"if={source}", *target, "bs=1M", "conv=notrunc,fsync", "status=none"], check=True)

    def read() -> None:
        for part, role in ((device.standby.verity, Role.VERITY), (device.standby.data, Role.DATA)):
            length = release.artifact(role).content_length
            window = f"skip={part.start} count={length} iflag=skip_bytes,count_bytes,direct"
            subprocess.run(f"dd if={disk} {window} bs=1M status=none | sha256sum", shell=True, check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
        subprocess.run(["sha256sum", str(own)], check=True, stdout=subprocess.DEVNULL)

    written, checked = _timed(write), _timed(read)
    own.unlink()
    return written, written + checked


def _timed(step: Callable[[], object]) -> float:
    os.sync()
    begin = time.monotonic()
    step()
    return time.monotonic() - begin


# -- rows -------------------------------------------------------------------------------------------------------------


def _bytes(pair: Pair, first: Round) -> Iterator[Row]:
    image = sum(len(content) for content in (pair.new.data, pair.new.verity, pair.new.uki))
    targets = pair.repository / "targets"
    served = [path for path in targets.rglob(f"*t640_{NEW}.*") if not path.name.endswith(".caibx")]
    whole = sum(path.stat().st_size for path in served)
    title = "update of one package: fetched"
    yield Row(f"{title}, metadata and indexes included", "% of the image", 100 * first.received / image, 10.0, RAUC,
              bound=5.0)  # fmt: skip
    share = 100 * first.received / whole
    yield Row(f"{title}, beside the compressed whole", "% of it", share, 100.0, "the whole artifacts", bound=5.0)
    yield Row(title, "MiB", first.received / 2**20, whole / 2**20, "the whole artifacts")


def _seconds(rounds: list[Round], disk: str, bound: float | None = None) -> Iterator[Row]:
    """Ours reads back and hashes what it wrote, which dd does not: on a fast disk that is most of the time."""
    middle = statistics.median
    applying, title = middle(each.applying for each in rounds), f"update without the network, staged to armed, {disk}"
    rival = "dd conv=fsync of the same bytes"
    yield Row(title, "s", applying, middle(each.dd for each in rounds), rival, ratio_bound=bound)
    read = f"{rival}, read back and hashed"
    yield Row(title, "s", applying, middle(each.checked for each in rounds), read)
    if bound is None:
        fetching = middle(each.fetching for each in rounds)
        yield Row(
            "update: fetch over loopback, put together, verify", "s", fetching, None, "no rival reuses both slots"
        )
