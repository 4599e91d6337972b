"""The rig's update repository: real signed metadata by `appliance-release`, static files by nginx.

The keys and the trusted root are kept in the cache, because the root is part of every image; the repository of a run
is a copy of its beginning, so that every run can publish the same versions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from t640 import layout as layouts
from t640 import lifeline
from t640.artifacts import Artifacts
from t640.clinic.daemons import web_server
from t640.clinic.network import CLOUD_ADDRESS, UPDATES_NAME
from t640.errors import RigError
from t640.image import Recipe, build
from t640.paths import REPOSITORY, cache_directory, locked
from t640.processes import wait_for
from t640.session import Session

PORT = 8480
URL = f"http://{UPDATES_NAME}:{PORT}"
_ROOT_FILE = "usr/share/appliance-update/root.json"
CONFIG_FILE = "etc/appliance-update/config.toml"


def version(step: int) -> str:
    """The repository's own version (0), or one of those after it."""
    stem, _, number = (REPOSITORY / "VERSION").read_text().strip().rpartition(".")
    return f"{stem}.{int(number) + step}"


def versions() -> tuple[str, str, str]:
    """The repository's own version and the two after it."""
    return version(0), version(1), version(2)


def anchor() -> Path:
    """The folder with the release keys and the repository's beginning; made at the first call."""
    folder = cache_directory() / "releases"
    with locked("releases"):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _release("keygen", str(folder / "keys"))
            _release("init", "--repository", str(folder / "repository"), "--keys", str(folder / "keys"))
            (folder / "complete").touch()
    return folder


def recipe(version: str, variant: str = "good", release: str = "trixie", kernel: str = "cloud") -> Recipe:
    """The recipe of an image that trusts the rig's releases and polls its repository."""
    root = next((anchor() / "repository" / "metadata").glob("1.root.json"))
    config = (REPOSITORY / "agent/appliance-update/etc/config.toml").read_text()
    polling = config.replace('repository = ""', f'repository = "{URL}"')
    if polling == config:
        raise RigError("The updater's default configuration has no empty `repository` to fill in.")
    return Recipe(
        version, variant, release, kernel, {_ROOT_FILE: root.read_text(), CONFIG_FILE: polling} | lifeline.files()
    )


class Updates:
    """The update repository of a run, served in the cloud."""

    def __init__(self, session: Session, cloud: str) -> None:
        self._keys = anchor() / "keys"
        self.repository = session.work / "updates"
        shutil.copytree(anchor() / "repository", self.repository)
        self.renew()
        folder = session.work / "updates-web"
        folder.mkdir()
        argv = web_server(folder, f"{CLOUD_ADDRESS}:{PORT}", self.repository)
        process = session.start("updates", argv, namespace=cloud)
        wait_for(lambda: (folder / "pid").exists() or not process.running, timeout=20, what="The start of nginx")
        process.require_running("The update repository's nginx")

    def renew(self) -> None:
        """Sign snapshot and timestamp anew."""
        _release("renew", "--repository", str(self.repository), "--keys", str(self._keys))

    def publish(self, version: str, variant: str = "good") -> Artifacts:
        """Build (or take from the cache) and publish a version."""
        return self.put(build(recipe(version, variant)))

    def put(self, artifacts: Artifacts, *, chunks: bool = False) -> Artifacts:
        """Publish a built version; with chunk indexes, a device that has a like one fetches what changed."""
        version = artifacts.version
        layout = layouts.load()
        folder = artifacts.directory / "published"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        names = {
            artifacts.data: layout.release_name("data", version, artifacts.data_uuid).removesuffix(".zst"),
            artifacts.verity: layout.release_name("verity", version, artifacts.verity_uuid).removesuffix(".zst"),
            artifacts.uki: layout.release_name("uki", version),
        }
        for path, name in names.items():
            os.link(path, folder / name)
        _release("publish", "--repository", str(self.repository), "--keys", str(self._keys), "--version", version,
                 "--level", "1", *(["--chunks"] if chunks else []), str(folder))  # fmt: skip
        shutil.rmtree(folder)
        return artifacts


def _release(*arguments: str) -> str:
    program = Path(sys.executable).with_name("appliance-release")
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RigError(f"appliance-release {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
