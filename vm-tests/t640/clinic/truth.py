"""What is really in the clinic, and how well an inventory matches it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """A device of the clinic. `mac` has the prefix of a vendor that makes such devices.

    `address` is empty for a host that asks DHCP. `tcp` and `udp` are its open ports; `services` are the names of what
    answers there (`t640.clinic.services`), `daemons` real programs.
    """

    name: str
    device_class: str
    mac: str
    address: str = ""
    tcp: tuple[int, ...] = ()
    udp: tuple[int, ...] = ()
    services: tuple[str, ...] = ()
    daemons: tuple[str, ...] = ()
    hostname: str = ""
    dhcp_vendor: str = ""
    silent: bool = False
    """Whether it must never receive a payload (printers, medical equipment)."""


GATEWAY = Host("gateway", "network", "9c:3d:cf:10:00:01", "10.77.0.1", tcp=(53,), udp=(53, 67))

HOSTS = (
    Host("intranet", "server", "0c:c4:7a:10:00:11", "10.77.0.11", (80,), daemons=("nginx",), hostname="intranet"),
    Host("admin", "server", "d4:be:d9:10:00:12", "10.77.0.12", (22,), (161,),
         daemons=("sshd", "snmpd"), hostname="admin"),
    Host("ultrasound", "medical", "30:1f:9a:20:00:13", "10.77.0.13", (104, 11112), services=("dicom",), silent=True),
    Host("monitor", "medical", "70:b3:d5:9d:b0:14", "10.77.0.14", (2575,), services=("hl7",), silent=True),
    Host("printer", "printer", "00:80:77:10:00:15", "10.77.0.15", (80, 631, 9100), (5353, 1900),
         services=("printer", "printer-announcements"), hostname="BRN008077100015", silent=True),
    Host("camera", "camera", "b8:a4:4f:10:00:16", "10.77.0.16", (80, 554), (5353,),
         services=("camera",), hostname="axis-b8a44f100016"),
    Host("phone", "phone", "80:5e:c0:10:00:17", "10.77.0.17", (80,), (5060,),
         services=("sip-phone",), hostname="SIP-T46U"),
    Host("access-point", "network", "74:83:c2:10:00:18", "10.77.0.18", (22, 80), (161,),
         services=("access-point",), daemons=("sshd", "snmpd"), hostname="UAP-AC-Pro"),
    Host("fridge", "iot", "24:6f:28:10:00:19", "10.77.0.19", (80,), (5353,),
         services=("thermometer",), hostname="tasmota-100019"),
    Host("reception", "workstation", "98:e7:43:10:00:20", "10.77.0.21", (135, 139, 445), (137,),
         services=("windows",), hostname="RECEPTION-PC1"),
    Host("laptop", "workstation", "54:ee:75:10:00:22", "", (135, 139, 445), (137,),
         services=("windows",), hostname="FRONTDESK-LT", dhcp_vendor="MSFT 5.0"),
    Host("visitor", "phone", "da:a1:19:10:00:23", hostname="Pixel-8", dhcp_vendor="android-dhcp-14"),
    Host("mystery", "unknown", "00:e0:4c:10:00:24", "10.77.0.24"),
)  # fmt: skip
"""Everything but the gateway. The visitor's MAC address is a made-up one, as telephones use (locally administered)."""

ALL = (GATEWAY, *HOSTS)


@dataclass(frozen=True)
class Score:
    """How one class fared. Precision is None when the inventory claimed none, recall when there is none."""

    found: int
    claimed: int
    present: int

    @property
    def precision(self) -> float | None:
        """The share of the devices claimed to be of this class that are."""
        return self.found / self.claimed if self.claimed else None

    @property
    def recall(self) -> float | None:
        """The share of the devices of this class that were found as such."""
        return self.found / self.present if self.present else None


def judge(inventory: dict[str, str], truth: Iterable[Host] = ALL) -> dict[str, Score]:
    """Compare an inventory (MAC address → class) with the truth, by class. Inventions count as claimed."""
    real = {host.mac.lower(): host.device_class for host in truth}
    seen = {mac.lower(): kind for mac, kind in inventory.items()}
    classes = sorted(set(real.values()) | set(seen.values()))
    return {
        kind: Score(
            found=sum(1 for mac, claimed in seen.items() if claimed == kind == real.get(mac)),
            claimed=sum(1 for claimed in seen.values() if claimed == kind),
            present=sum(1 for actual in real.values() if actual == kind),
        )
        for kind in classes
    }
