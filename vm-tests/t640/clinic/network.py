"""The clinic's network and the way out of it: namespaces, a bridge, DHCP and names, the uplink.

clinic: br0 10.77.0.1/24 (gateway, DHCP, DNS), tap0 for the appliance, one veth a host
   │ uplink 192.0.2.1 ── 192.0.2.2
cloud: 198.51.100.10 (Central Command, update repository, names, time)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from t640.clinic.truth import GATEWAY, HOSTS, Host
from t640.processes import Process, wait_for
from t640.session import Session, ip

CLOUD_ADDRESS = "198.51.100.10"
CENTRAL_NAME = "central.appliance.test"
UPDATES_NAME = "updates.appliance.test"
LIFELINE_NAME = "lifeline.appliance.test"
APPLIANCE_ADDRESS = "10.77.0.50"
TAP = "tap0"

_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    # A veth to every host: one answer to an ARP question is enough.
    "net/ipv4/conf/all/arp_ignore": "1",
}


@dataclass(frozen=True)
class Network:
    """The namespaces' full names."""

    clinic: str
    cloud: str


def create(session: Session) -> Network:
    """Make both namespaces, the bridge with the appliance's tap, and the uplink between them."""
    clinic, cloud = session.add_namespace("clinic"), session.add_namespace("cloud")
    ip("-n", clinic, "link", "add", "br0", "address", GATEWAY.mac, "type", "bridge", "forward_delay", "0")
    ip("-n", clinic, "addr", "add", f"{GATEWAY.address}/24", "dev", "br0")
    ip("-n", clinic, "tuntap", "add", TAP, "mode", "tap")
    ip("-n", clinic, "link", "set", TAP, "master", "br0", "up")
    ip("-n", clinic, "link", "set", "br0", "up")
    ip("-n", clinic, "link", "add", "uplink", "type", "veth", "peer", "name", "site", "netns", cloud)
    ip("-n", clinic, "addr", "add", "192.0.2.1/30", "dev", "uplink")
    ip("-n", cloud, "addr", "add", "192.0.2.2/30", "dev", "site")
    ip("-n", cloud, "addr", "add", f"{CLOUD_ADDRESS}/32", "dev", "lo")
    ip("-n", cloud, "link", "set", "site", "up")
    set_uplink(clinic, up=True)
    ip("-n", cloud, "route", "add", "10.77.0.0/24", "via", "192.0.2.1")
    _set_sysctls(session, clinic)
    return Network(clinic, cloud)


def set_uplink(clinic: str, *, up: bool) -> None:
    """Cut or mend the line between the clinic and the rest of the world."""
    ip("-n", clinic, "link", "set", "uplink", "up" if up else "down")
    if up:
        ip("-n", clinic, "route", "replace", "default", "via", "192.0.2.2")


def _set_sysctls(session: Session, namespace: str) -> None:
    script = "".join(f"echo {value} >/proc/sys/{name}; " for name, value in _SYSCTLS.items())
    # A fresh mount of /proc is not needed: /proc/sys/net shows the namespace of whoever opens it.
    session.start("sysctl", ["sh", "-c", script], namespace=namespace).wait(10)


def add_host(session: Session, network: Network, host: Host) -> str:
    """Plug a host into the bridge; returns its namespace. A host without an address asks DHCP later."""
    namespace = session.add_namespace(host.name)
    port = f"v{HOSTS.index(host)}"
    ip("-n", network.clinic, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    ip("-n", network.clinic, "link", "set", port, "master", "br0", "up")
    ip("-n", namespace, "link", "set", "eth0", "address", host.mac, "up")
    if host.address:
        ip("-n", namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        ip("-n", namespace, "route", "add", "default", "via", GATEWAY.address)
    return namespace


def start_dhcp(session: Session, network: Network, appliance_mac: str) -> Process:
    """The gateway's dnsmasq: addresses, names (asked of the cloud), the time server (option 42)."""
    options = [
        "--interface=br0", "--bind-interfaces", "--dhcp-range=10.77.0.100,10.77.0.199,255.255.255.0,1h",
        f"--dhcp-host={appliance_mac},{APPLIANCE_ADDRESS}", f"--dhcp-option=42,{CLOUD_ADDRESS}",
        "--dhcp-option=15,clinic.test", "--no-ping", f"--dhcp-leasefile={session.work / 'leases'}",
        # Every name goes out to the cloud and is asked again each time: a cache would hide that the uplink is gone.
        f"--server={CLOUD_ADDRESS}", "--cache-size=0",
    ]  # fmt: skip
    return _dnsmasq(session, "dhcp", network.clinic, options)


def start_names(session: Session, network: Network) -> Process:
    """The cloud's names."""
    options = [f"--listen-address={CLOUD_ADDRESS}", "--bind-interfaces", "--no-hosts"]
    options += [f"--address=/{name}/{CLOUD_ADDRESS}" for name in (CENTRAL_NAME, UPDATES_NAME, LIFELINE_NAME)]
    return _dnsmasq(session, "names", network.cloud, options)


def _dnsmasq(session: Session, title: str, namespace: str, options: list[str]) -> Process:
    pid_file = session.work / f"{title}.pid"
    common = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
              f"--pid-file={pid_file}", "--log-facility=-"]  # fmt: skip
    process = session.start(title, [*common, *options], namespace=namespace)
    _wait_for_file(process, pid_file, title)
    return process


def start_time(session: Session, network: Network) -> Process:
    """The cloud's time server: chronyd that leaves this machine's clock alone (-x)."""
    folder = session.work / "chrony"
    folder.mkdir()
    configuration = folder / "chrony.conf"
    configuration.write_text(
        f"local stratum 2\nallow all\nbindaddress {CLOUD_ADDRESS}\ncmdport 0\nbindcmdaddress /\n"
        f"pidfile {folder}/chronyd.pid\ndriftfile {folder}/drift\n"
    )
    argv = ["chronyd", "-x", "-d", "-u", "root", "-f", str(configuration)]
    process = session.start("time", argv, namespace=network.cloud)
    _wait_for_file(process, folder / "chronyd.pid", "the time server")
    return process


def _wait_for_file(process: Process, path: Path, what: str) -> None:
    wait_for(lambda: path.exists() or not process.running, timeout=20, what=f"The start of {what}")
    process.require_running(what)
