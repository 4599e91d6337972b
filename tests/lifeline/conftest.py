"""A device in a directory (the updater's simulator), a lifeline server, and a PATH that holds no Python."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance_release.artifacts import collect
from appliance_release.lifeline import Order, publish
from tests.appliance_update.simulator import Build, Device, make_build, make_device, small_layout
from tests.appliance_update.web_server import WebServer

LIFELINE = Path(__file__).parents[2] / "agent/appliance-update/lifeline"
V1, V2, V3 = "2026.11.1", "2026.11.2", "2026.11.10"

PROGRAMS = (
    "sh", "cat", "chmod", "curl", "cut", "date", "dd", "df", "flock", "grep", "head", "ip", "kill", "minisign", "mkdir",
    "mount", "mv", "od", "readlink", "rm", "sed", "sfdisk", "sha256sum", "sleep", "stat", "sync", "tail", "tr",
    "truncate", "wc", "zstd",
)  # fmt: skip
"""All that the scripts call, and so all that is on their PATH here. There is no Python among it."""


def make_layout() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("make_layout", LIFELINE / "make_layout.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tools")
    for name in PROGRAMS:
        found = shutil.which("dash" if name == "sh" else name, path="/usr/sbin:/sbin:/usr/bin:/bin")
        assert found, f"{name} is not installed"
        (directory / name).symlink_to(found)
    # Flushing this machine's disks says nothing about the appliance's, and takes long where others build.
    (directory / "sync").unlink()
    (directory / "sync").write_text(f"#!{directory}/sh\n")
    (directory / "sync").chmod(0o755)
    assert not list(directory.glob("python*"))
    return directory


@dataclass(frozen=True)
class Keys:
    public: Path
    secret: Path


def make_keys(directory: Path) -> Keys:
    directory.mkdir(parents=True, exist_ok=True)
    keys = Keys(directory / "lifeline.pub", directory / "lifeline.key")
    subprocess.run(
        ["minisign", "-G", "-W", "-p", str(keys.public), "-s", str(keys.secret)], check=True, capture_output=True
    )
    return keys


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@dataclass
class World:
    """One device and the lifeline's host."""

    directory: Path
    layout_file: Path
    device: Device
    server: WebServer
    keys: Keys
    tools: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def site(self) -> Path:
        return self.directory / "site"

    @property
    def root(self) -> Path:
        return self.device.root

    def publish(self, version: str, build: Build | None = None, now: float | None = None, **changes: object) -> Build:
        made = build or make_build(self.directory, version)
        order = Order(version, **({"piece": 65536, "level": 1} | changes))  # type: ignore[arg-type]
        publish(self.site, order, collect((made.directory,), version), self.keys.secret, now or time.time())
        return made

    @property
    def file(self) -> Path:
        return self.site / "t640-standin.lifeline"

    def sign(self, text: str) -> None:
        """Put any text in place of the file, with a good signature."""
        self.file.write_text(text)
        subprocess.run(
            ["minisign", "-S", "-s", str(self.keys.secret), "-m", str(self.file), "-x", f"{self.file}.minisig"],
            check=True, capture_output=True,
        )  # fmt: skip

    def sign_again(self, edit: Callable[[str], str]) -> None:
        self.sign(edit(self.file.read_text()))

    def set_clock(self) -> None:
        """A time server has set the clock."""
        (self.root / "run/systemd/timesync").mkdir(parents=True)
        (self.root / "run/systemd/timesync/synchronized").touch()

    def silent_for(self, hours: float) -> None:
        """Let the last contact be so long ago, on a machine that has been up for that time."""
        state = self.root / "var/lib/appliance-lifeline"
        state.mkdir(parents=True, exist_ok=True)
        boot = (self.root / "proc/sys/kernel/random/boot_id").read_text().strip()
        (self.root / "proc/uptime").write_text(f"{int(hours * 3600) + 1}.50 0.00\n")
        (state / "silence").write_text(f"0 1 {boot} none\n")

    def run(
        self, *arguments: str, program: str = "appliance-lifeline", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        conf = {"URLS": self.server.url} | self.settings
        (self.root / "etc/appliance-lifeline.conf").write_text("".join(f'{k}="{v}"\n' for k, v in conf.items()))
        environment = {
            "PATH": str(self.tools),
            "APPLIANCE_LIFELINE_ROOT": str(self.root),
            "APPLIANCE_LIFELINE_LIBRARY": str(self.directory / "library"),
            "APPLIANCE_LIFELINE_ESP": str(self.device.esp),
            "APPLIANCE_LIFELINE_REBOOT": f"{self.tools / 'sh'} -c echo>>{self.root}/rebooted",
        } | environment
        return subprocess.run(
            [str(self.tools / "sh"), str(self.directory / "library" / program), *(arguments or ("run",))],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    @property
    def rebooted(self) -> bool:
        path = self.root / "rebooted"
        found = path.exists()
        path.unlink(missing_ok=True)
        return found

    def status(self) -> dict[str, str]:
        text = (self.root / "run/appliance-lifeline/status").read_text()
        return dict(line.split("=", 1) for line in text.splitlines())


def make_world(directory: Path, keys: Keys, tools: Path, flavour: str = "standin") -> World:
    layout_file = small_layout(directory)
    build = make_build(directory, V1, flavour=flavour)
    device = make_device(directory / "device", layout_file, build, flavour)
    library = directory / "library"
    library.mkdir()
    for path in LIFELINE.iterdir():
        if path.is_file():
            shutil.copy(path, library)
    maker = make_layout()
    (library / "layout.sh").write_text(maker.fragment(maker.tomllib.loads(layout_file.read_text()), flavour))
    site = directory / "site"
    site.mkdir()
    (device.root / "usr/share/appliance-lifeline/keys").mkdir(parents=True)
    shutil.copy(keys.public, device.root / "usr/share/appliance-lifeline/keys/provider.pub")
    (device.root / "proc/uptime").write_text("9000.12 0.00\n")
    for path in ("usr/share/appliance-update", "run/appliance-update", "var/lib/appliance-update"):
        (device.root / path).mkdir(parents=True, exist_ok=True)
    (device.root / "usr/share/appliance-update/build-time").write_text("1790000000\n")
    return World(directory, layout_file, device, WebServer(site), keys, tools)


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def world(quick: Path, keys: Keys, tools: Path) -> Iterator[World]:
    made = make_world(quick, keys, tools)
    yield made
    made.server.close()
