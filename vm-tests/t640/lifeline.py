"""The lifeline in the rig: its files in an image, its keys, and its own host in the cloud.

It shares nothing with the update repository: another name, another port, another key.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from t640 import layout as layouts
from t640.artifacts import Artifacts
from t640.clinic.daemons import web_server
from t640.clinic.network import CLOUD_ADDRESS, LIFELINE_NAME
from t640.errors import Missing, RigError
from t640.paths import REPOSITORY, cache_directory, locked
from t640.processes import wait_for
from t640.session import Session

SOURCE = REPOSITORY / "agent/appliance-update/lifeline"
PORT = 8490
URL = f"http://{LIFELINE_NAME}:{PORT}"
UNITS = ("appliance-lifeline.timer", "appliance-status.socket")
_CONFIG_FILE = "etc/appliance-lifeline.conf"
_KEY_FILE = "usr/share/appliance-lifeline/keys/provider.pub"


def install(tree: Path, *, units: Sequence[str] = UNITS, consoles: Sequence[str] = ("tty1",)) -> None:
    """Scripts, units, configuration and the disk's numbers into an image's tree."""
    library = tree / "usr/lib/appliance-lifeline"
    library.mkdir(parents=True, exist_ok=True)
    programs = tree / "usr/bin"
    programs.mkdir(parents=True, exist_ok=True)
    for path in SOURCE.iterdir():
        if path.is_file() and path.suffix in ("", ".sh"):
            shutil.copy(path, library)
    for name in ("appliance-lifeline", "appliance-slots"):
        (programs / name).unlink(missing_ok=True)
        (programs / name).symlink_to(f"/usr/lib/appliance-lifeline/{name}")
    command = [sys.executable, str(SOURCE / "make_layout.py"), str(layouts.LAYOUT_FILE), layouts.load().flavour]
    (library / "layout.sh").write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    system = tree / "usr/lib/systemd/system"
    shutil.copytree(SOURCE / "systemd", system, dirs_exist_ok=True)
    (tree / "etc").mkdir(exist_ok=True)
    shutil.copy(SOURCE / "etc/appliance-lifeline.conf", tree / _CONFIG_FILE)
    preset = system.parent / "system-preset/11-lifeline.preset"
    preset.parent.mkdir(parents=True, exist_ok=True)
    preset.write_text("".join(f"enable {unit}\n" for unit in units))
    wants = system / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for console in consoles:
        (wants / f"appliance-console@{console}.service").symlink_to("../appliance-console@.service")


def keys() -> Path:
    """The folder with lifeline.pub and lifeline.key; made at the first call."""
    folder = cache_directory() / "lifeline-keys"
    with locked("lifeline-keys"):
        if not (folder / "complete").exists():
            if shutil.which("minisign") is None:
                raise Missing("minisign is not installed: apt-get install minisign.")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            pair = ["-p", str(folder / "lifeline.pub"), "-s", str(folder / "lifeline.key")]
            subprocess.run(["minisign", "-G", "-W", *pair], check=True, capture_output=True)
            (folder / "complete").touch()
    return folder


def files() -> dict[str, str]:
    """What an image needs beside the scripts: the rig's address and public key (path → content)."""
    configuration = (SOURCE / "etc/appliance-lifeline.conf").read_text()
    return {
        _CONFIG_FILE: configuration.replace("\nURLS=\n", f"\nURLS={URL}\n"),
        _KEY_FILE: (keys() / "lifeline.pub").read_text(),
    }


class Lifeline:
    """The lifeline's host of a run."""

    def __init__(self, session: Session, cloud: str) -> None:
        self.site = session.work / "lifeline"
        self.site.mkdir()
        folder = session.work / "lifeline-web"
        folder.mkdir()
        argv = web_server(folder, f"{CLOUD_ADDRESS}:{PORT}", self.site)
        process = session.start("lifeline", argv, namespace=cloud)
        wait_for(lambda: (folder / "pid").exists() or not process.running, timeout=20, what="The start of nginx")
        process.require_running("The lifeline's nginx")

    def publish(self, artifacts: Artifacts, *options: str) -> None:
        """Sign and serve a version that has been built. Raises `RigError`."""
        layout = layouts.load()
        version = artifacts.version
        folder = artifacts.directory / "lifeline"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        names = {
            artifacts.data: layout.release_name("data", version, artifacts.data_uuid).removesuffix(".zst"),
            artifacts.verity: layout.release_name("verity", version, artifacts.verity_uuid).removesuffix(".zst"),
            artifacts.uki: layout.release_name("uki", version),
        }
        for path, name in names.items():
            os.link(path, folder / name)
        program = Path(sys.executable).with_name("appliance-release")
        command = [str(program), "lifeline", "publish", "--site", str(self.site), "--secret-key",
                   str(keys() / "lifeline.key"), "--level", "1", "--version", version, *options,
                   str(folder)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        shutil.rmtree(folder)
        if done.returncode != 0:
            raise RigError(f"appliance-release lifeline ended with {done.returncode}: {done.stderr.strip()}")
