from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from appliance_release import keys
from appliance_release.artifacts import collect
from appliance_release.publishing import publish
from appliance_release.releases import Description, Published
from appliance_release.repository import Repository
from appliance_update import web
from appliance_update.layout import load as load_layout
from appliance_update.repository import Catalogue
from appliance_update.repository import Repository as Reader
from appliance_update.tuf_client import Client
from tests.appliance_update.simulator import LAYOUT, make_build
from tests.appliance_update.web_server import WebServer

V1, V2, V3, V10 = "2026.11.1", "2026.11.2", "2026.11.3", "2026.11.10"
LAYOUT_NOW = load_layout(LAYOUT)


@dataclass
class Provider:
    """A publisher with its repository, the web server that serves it, and devices that read it."""

    directory: Path
    site: Repository
    server: WebServer
    devices: int = 0

    def publish(self, version: str, *, chunks: bool = False, unproven: bool = False, **changes: object) -> Published:
        build = make_build(self.directory, version)
        description = replace(Description(version), **changes)  # type: ignore[arg-type]
        return publish(
            self.site, description, collect((build.directory,), version), 1, chunks=chunks, unproven=unproven
        )

    def device(self) -> Client:
        """A new device with the first root."""
        self.devices += 1
        root = (self.site.metadata / "1.root.json").read_bytes()
        cache = self.directory / f"device-{self.devices}"
        return Client(f"{self.server.url}metadata/", cache, web.session("test"), root)

    def seen(self) -> Catalogue:
        """What a new device is offered."""
        self.devices += 1
        root = self.site.metadata / "1.root.json"
        reader = Reader(self.server.url, self.directory / f"reader-{self.devices}", root, web.session("test"))
        return reader.refresh(LAYOUT_NOW, "t640", "standin", time.time())

    def offered(self) -> list[str]:
        return sorted(release.version for release in self.seen().releases)


def make_provider(directory: Path, **counts: int) -> Provider:
    keys.generate(directory / "keys", counts)
    site = Repository(directory / "site", directory / "keys", time.time())
    site.init({role: max(1, count - 1) for role, count in counts.items()})
    return Provider(directory, site, WebServer(site.directory))


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    made = make_provider(tmp_path)
    yield made
    made.server.close()
