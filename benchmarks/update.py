"""What an update costs: bytes for a change of one package, and time beside dd. Needs root, no virtual machine.

`python -m benchmarks update` builds two stand-in images that differ in one package, publishes both, and updates a
device from one to the other: the real updater, a real web server, real systemd-sysupdate (the tool root's), a loop
device with the appliance's own partition table. Simulated are firmware and boot alone; the ESP is a directory. dd
writes the same bytes to the same places, then syncs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
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
from appliance_release.repository import Description, Repository
from appliance_update.config import Config, Paths
from appliance_update.device import inspect
from appliance_update.install import Sysupdate
from appliance_update.layout import LAYOUT_FILE, Role
from appliance_update.machine import assemble
from appliance_update.updater import Updater
from appliance_update.web import Client
from benchmarks.rows import Row
from t640 import layout as layouts
from t640 import releases, toolroot, wheels
from t640.image import Artifacts, build
from t640.paths import REPOSITORY, cache_directory
from tests.appliance_update import simulator
from tests.appliance_update.simulator import Build, Device, make_device
from tests.appliance_update.web_server import WebServer

OLD, NEW = "2026.11.80", "2026.11.81"
PACKAGE = REPOSITORY / "agent/local-portal"
ROUNDS = 3
RAUC = "RAUC, by its documentation (adaptive update of an ext4 image, one package)"

# What a process of the tool root sees: the device under the name the updater gives it, and the updater's own files.
_CHROOT = """#!/bin/sh
exec unshare --mount --propagation private sh -ec '
mount --bind {tools} {tools}
mount -t proc proc {tools}/proc
mount -t sysfs sysfs {tools}/sys
mount -t tmpfs tmpfs {tools}/dev
mount -t tmpfs tmpfs {tools}/tmp
mount -t tmpfs tmpfs {tools}/run
for node in null zero urandom; do touch {tools}/dev/$node; mount --bind /dev/$node {tools}/dev/$node; done
for node in {nodes}/*; do
    touch {tools}/dev/${{node##*/}}; mount --bind $node {tools}/dev/${{node##*/}}
done
mkdir -p {tools}{root}; mount --bind {root} {tools}{root}
mount --bind {root}/etc/os-release {tools}/usr/lib/os-release
mount --bind {root}/boot {tools}/boot
export SYSTEMD_ESP_PATH=/boot SYSTEMD_XBOOTLDR_PATH=/boot
exec chroot {tools} /usr/lib/systemd/systemd-sysupdate "$@"
' sysupdate "$@"
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
        yield from _seconds(rounds)


# -- the two versions -------------------------------------------------------------------------------------------------


def _published(work: Path) -> Pair:
    recipe = releases.recipe(OLD)
    changed = dataclasses.replace(releases.recipe(NEW), files={**recipe.files, **_changed_package()})
    builds = [_laid_out(work, build(each)) for each in (recipe, changed)]
    keys.generate(work / "keys")
    repository = Repository(work / "repository", work / "keys", time.time())
    repository.init()
    for each in builds:
        artifacts = collect((each.directory,), each.version)
        repository.publish(Description(each.version), artifacts, chunks=True, unproven=True)
    old, new = builds
    return Pair(old, new, work / "repository")


def _changed_package() -> dict[str, str]:
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
    """What one update took: bytes received, seconds of its parts, and dd's seconds for the same bytes."""

    received: int
    fetching: float
    applying: float
    dd: float


def _round(root: Path, pair: Pair) -> Round:
    device = make_device(root, REPOSITORY / "image" / LAYOUT_FILE.name, pair.old)
    server = WebServer(pair.repository)
    with _loop(device.disk, root / "nodes") as nodes:
        program = root / "sysupdate"
        program.write_text(_CHROOT.format(tools=toolroot.ensure(), nodes=nodes, root=root))
        program.chmod(0o755)
        updater = _updater(device, server.url, pair, program)
        client = updater.repository.client
        assert isinstance(client, Client)
        try:
            with updater.store.locked():
                updater.store.device = inspect(updater.host, updater.layout)
                updater.store.running_version = pair.old.version
                fetching = _timed(updater.fetch)
                dd = _dd(updater, nodes)
                applying = _timed(updater.apply)
        finally:
            server.close()
    return Round(client.received, fetching, applying, dd)


def _updater(device: Device, url: str, pair: Pair, program: Path) -> Updater:
    trusted = pair.repository / "metadata/1.root.json"
    layout = REPOSITORY / "image" / LAYOUT_FILE.name
    paths = Paths(str(layout), str(trusted), str(device.state), str(device.runtime), str(program))
    return assemble(
        Config(repository=url, paths=paths), host=device.host, writer=Sysupdate(str(program)), reboot=lambda _: None
    )


@contextlib.contextmanager
def _loop(disk: Path, nodes: Path) -> Iterator[Path]:
    """The disk as a block device past the page cache, like a real one; its nodes in a folder, by the updater's names.

    Made by hand from sysfs: not everywhere is an udev that makes them in /dev.
    """
    options = ["--find", "--show", "--partscan", "--direct-io=on", str(disk)]
    loop = Path(subprocess.run(["losetup", *options], check=True, capture_output=True, text=True).stdout.strip()).name
    try:
        nodes.mkdir()
        for directory in [*sorted(Path("/sys/block", loop).glob(f"{loop}p*")), Path("/sys/block", loop)]:
            major, minor = (int(number) for number in (directory / "dev").read_text().split(":"))
            name = f"nvme0n1{directory.name.removeprefix(loop)}"
            os.mknod(nodes / name, stat.S_IFBLK | 0o600, os.makedev(major, minor))
        yield nodes
    finally:
        subprocess.run(["losetup", "--detach", f"/dev/{loop}"], check=True)


def _dd(updater: Updater, nodes: Path) -> float:
    """The same three files from the staging directory to the same places, each synced."""
    release = updater.store.record.candidate
    assert release is not None
    layout = updater.layout
    targets = {
        Role.VERITY: nodes / f"nvme0n1p{layout.number(Role.VERITY, 'b')}",
        Role.DATA: nodes / f"nvme0n1p{layout.number(Role.DATA, 'b')}",
        Role.UKI: updater.host.path("/boot/EFI/Linux/written-by-dd"),
    }

    def write() -> None:
        for role, target in targets.items():
            source = updater.transfer.staged(release, release.artifact(role))
            call = ["dd", f"if={source}", f"of={target}", "bs=1M", "conv=fsync", "status=none"]
            subprocess.run(call, check=True)

    seconds = _timed(write)
    targets[Role.UKI].unlink()
    return seconds


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


def _seconds(rounds: list[Round]) -> Iterator[Row]:
    middle = statistics.median
    yield Row(
        "update without the network: staged to armed, read back", "s", middle(each.applying for each in rounds),
        middle(each.dd for each in rounds), "dd conv=fsync of the same bytes", ratio_bound=1.2,
    )  # fmt: skip
    yield Row("update: check, fetch over loopback, put together, verify", "s",
              middle(each.fetching for each in rounds), None, "no rival: a network is in it")  # fmt: skip
