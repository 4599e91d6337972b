"""What worked right before the reboot into a new version, kept on the state partition for that version's gate.

Local facts decide there (`checks/worked.py`, `checks/polling.py`). Remote ones only advise: an uplink that is down is
no fault of an image, whether it was up before or not.
"""

from __future__ import annotations

import contextlib
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from appliance_update import network
from appliance_update.config import Config
from appliance_update.files import Unreadable, decode, read_limited, write_json
from appliance_update.gate import systemd
from appliance_update.gate.checks import portal
from appliance_update.host import Host

FILE = "baseline.json"
LIMIT = 256 * 1024
LISTENING_STATES = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
"""Kernel's numbers for listening TCP and unconnected UDP sockets (include/net/tcp_states.h)."""
EPHEMERAL = 32768
"""Ports from here on are given out by the kernel and mean nothing."""


@dataclass(frozen=True)
class Baseline:
    """One look at a working system. None means: could not be told, or nothing is configured to be told."""

    at: float = 0.0
    version: str = ""
    boot_id: str = ""
    repository: str = ""
    device_class: str = ""
    units: tuple[str, ...] = ()
    portal: bool | None = None
    uplink: bool | None = None
    names: bool | None = None
    checkin_age: float | None = None
    """Seconds since the agent's last accepted check-in, by the wall clock."""
    listening: tuple[str, ...] = ()
    format: int = 1


def record(host: Host, config: Config) -> Baseline:
    """Look, and keep what is seen in the state directory. Never raises: a missing baseline compares nothing.

    Called right before the reboot into a candidate; takes a few seconds at most.
    """
    try:
        seen = look(host, config)
    except Exception:  # whatever it is: an update is not held up for want of something to compare with
        seen = Baseline(at=time.time(), version=host.image_version, repository=config.repository)
    with contextlib.suppress(OSError):
        write_json(Path(config.paths.state) / FILE, seen)
    return seen


def look(host: Host, config: Config) -> Baseline:
    """What works now."""
    units: tuple[str, ...] = ()
    if host.path("/run/systemd/system").is_dir():  # sd_booted(3)
        with contextlib.suppress(systemd.NoAnswer):
            units = systemd.running_services()
    return Baseline(
        at=time.time(),
        version=host.image_version,
        boot_id=host.boot_id(),
        repository=config.repository,
        device_class=config.device_class,
        units=units,
        portal=portal.check(config, host) is None if config.gate.portal else None,
        uplink=_reachable(config),
        names=_resolvable(config),
        checkin_age=_checkin_age(config, host),
        listening=listening(host),
    )


def before_update(config: Config, host: Host) -> Baseline | None:
    """The baseline of the version before this one; None when there is none, or it is this version's own."""
    try:
        kept = decode(read_limited(Path(config.paths.state) / FILE, LIMIT), Baseline, FILE)
    except (OSError, Unreadable):
        return None
    return kept if kept.version and kept.version != host.image_version else None


def advice(config: Config, host: Host) -> dict[str, str]:
    """What worked before the update and does not now, for people: none of it condemns a system."""
    before = before_update(config, host)
    if before is None:
        return {}
    now = look(host, config)
    found = {}
    if before.uplink and now.uplink is False:
        found["uplink"] = f"The repository {config.repository} could be reached under {before.version} and cannot now"
    if before.names and now.names is False:
        found["names"] = f"Names could be resolved under {before.version} and cannot now"
    gone = [name for name in before.listening if name not in now.listening]
    if gone:
        found["listening"] = f"Nothing listens any more on {', '.join(gone)}"
    stopped = [unit for unit in before.units if unit not in now.units]
    if stopped:
        found["units"] = f"Ran under {before.version} and does not run now: {', '.join(stopped)}"
    if before.device_class and before.device_class != config.device_class:
        found["device_class"] = f"The device class was {before.device_class} and is {config.device_class}"
    lately = before.checkin_age is not None and before.checkin_age < 3600
    if lately and (now.checkin_age is None or now.checkin_age > time.time() - before.at):
        found["checkin"] = "The agent has not checked in yet since the update"
    return found


def listening(host: Host) -> tuple[str, ...]:
    """Ports somebody listens on, as `tcp/443`; IPv4 and IPv6 are one."""
    found = set()
    for name, state in LISTENING_STATES.items():
        with contextlib.suppress(OSError):
            for line in host.path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                if len(fields) > 3 and fields[3] == state:
                    port = int(fields[1].rpartition(":")[2], 16)
                    if 0 < port < EPHEMERAL:
                        found.add(f"{name[:3]}/{port}")
    return tuple(sorted(found))


def _first_hop(config: Config) -> tuple[str, int] | None:
    """Host and port that a poll of the repository would connect to: its own, or the proxy's."""
    address = urllib.parse.urlsplit(config.repository)
    if not address.hostname:
        return None
    proxy = config.transfer.proxy or urllib.request.getproxies().get(address.scheme, "")
    if proxy and not urllib.request.proxy_bypass(address.hostname):
        address = urllib.parse.urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    return address.hostname or "", address.port or (443 if address.scheme == "https" else 80)


def _reachable(config: Config) -> bool | None:
    hop = _first_hop(config)
    return network.answers(*hop, refusal=False) if hop else None


def _resolvable(config: Config) -> bool | None:
    hop = _first_hop(config)
    if hop is None or hop[0].replace(".", "").isdigit() or ":" in hop[0]:
        return None
    return network.resolves(hop[0])


def _checkin_age(config: Config, host: Host) -> float | None:
    """By the file that the agent touches whenever Central Command takes its check-in."""
    if not config.watch.checkin_file:
        return None
    try:
        return max(0.0, time.time() - host.path(config.watch.checkin_file).stat().st_mtime)
    except OSError:
        return None
