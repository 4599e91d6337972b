"""A small clinic in network namespaces, scanned once while everything the scanner sends is captured."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.network_scanner.lab import Host, Lab, Packet

SERVER = Host("server", "0c:c4:7a:10:00:11", "10.79.0.5")
PRINTER = Host("printer", "00:80:77:10:00:15", "10.79.0.6", (80, 443, 515, 631, *range(9100, 9108)))
DICOM = Host("dicom", "00:1b:21:10:00:16", "10.79.0.7", (22, 80, 104, 443, 445, 11112))
MONITOR = Host("monitor", "00:09:fb:10:00:17", "10.79.0.8", (22, 80, 2575))
WINDOWS = Host("windows", "98:e7:43:10:00:18", "10.79.0.9", (135, 139, 445))
VISITOR = Host("visitor", "da:a1:19:10:00:23", "10.79.0.10")
EXCLUDED = Host("excluded", "98:e7:43:10:00:24", "10.79.0.11", (22, 80))
TARPIT = Host("tarpit", "98:e7:43:10:00:25", "10.79.0.12", (22, 80, 443, 445),
              {22: "SSH-2.0-" + "x" * 3000, 80: "?" + "HTTP/1.0 200 OK\r\n\r\n<title>" + "\x1b[31m<b>" * 4000})
CLINIC = [SERVER, PRINTER, DICOM, MONITOR, WINDOWS, VISITOR, EXCLUDED, TARPIT]
SILENT = (PRINTER, DICOM, MONITOR)
NETWORK = "10.79.0.0/28"

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 16; }}
http {{ access_log off; server {{ listen 80; listen 443 ssl; root {folder};
  ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
  location / {{ default_type text/html; return 200 '<title>Intranet</title>'; }} }} }}
"""


@dataclass(frozen=True)
class Scanned:
    """A scan of the clinic and what was on the wire."""

    lab: Lab
    result: dict[str, Any]
    packets: list[Packet]
    received: dict[str, dict[int, bytes]]

    def device(self, host: Host) -> dict[str, Any]:
        """What the scan says of a host."""
        return next(item for item in self.result["devices"] if host.mac in item["mac_addresses"])

    def sent_to(self, host: Host) -> list[Packet]:
        """What was sent to a host: to its MAC address, or asking for its IP address."""
        return [item for item in self.packets if host.mac == item.target_mac or host.ip == item.target]


def real_services(lab: Lab, folder: Path) -> None:
    """nginx and OpenSSH on the server, as Debian ships them."""
    for program in ("nginx", "sshd"):
        if shutil.which(program, path="/usr/sbin:/usr/bin") is None:
            pytest.skip(f"{program} is not installed")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=intranet.clinic", "-keyout", folder / "key.pem", "-out",
                    folder / "cert.pem"], check=True, capture_output=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host_key"], check=True)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    Path("/run/sshd").mkdir(exist_ok=True)
    namespace = lab.namespace(SERVER)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    lab.start(namespace, ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")], **quiet)
    lab.start(namespace, ["/usr/sbin/sshd", "-D", "-f", "/dev/null", "-h", str(folder / "host_key"), "-o",
                          f"PidFile={folder}/sshd.pid"], **quiet)
    for _ in range(100):
        listening = subprocess.run(["ip", "netns", "exec", namespace, "ss", "-Hltn"], capture_output=True, text=True)
        if all(f":{port} " in listening.stdout for port in (22, 80, 443)):
            return
        time.sleep(0.05)
    raise AssertionError(f"the server's services did not start: {(folder / 'error.log').read_text()[:500]}")


def scan_clinic(lab: Lab, folder: Path) -> Scanned:
    """One full scan; `EXCLUDED` is excluded by the configuration."""
    config = folder / "config.toml"
    config.write_text(f'exclude = ["{EXCLUDED.ip}"]\nstate_directory = "{folder}"\n')
    stop = lab.capture(folder / "sent.pcap")
    result = lab.scan("--config", str(config), network=NETWORK)
    return Scanned(lab, result, stop(), lab.received())


@pytest.fixture(scope="session", autouse=True)
def _background(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Future[Scanned] | None]:
    """The scan takes its time by design, so it runs while the other tests do."""
    if not any("scanned" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    folder = tmp_path_factory.mktemp("clinic")
    with Lab(CLINIC) as lab, ThreadPoolExecutor(1) as pool:
        real_services(lab, folder)
        yield pool.submit(scan_clinic, lab, folder)


@pytest.fixture(scope="session")
def scanned(_background: Future[Scanned] | None) -> Scanned:
    """The clinic after one full scan."""
    assert _background is not None
    return _background.result(timeout=120)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at the scan comes last of this folder, when the scan has had the time to finish."""
    places = [place for place, item in enumerate(items) if Path(__file__).parent in item.path.parents]
    own = [items[place] for place in places]
    ordered = sorted(own, key=lambda item: "scanned" in getattr(item, "fixturenames", ()))
    for place, item in zip(places, ordered, strict=True):
        items[place] = item
