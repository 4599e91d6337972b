"""The network scanner beside arp-scan, on a switch with sixty hosts in namespaces. Needs root.

`python benchmarks/network_scanner.py` prints a JSON list of rows: name, ours, rival, unit, and the target, where
there is one. Both programs run on the same lab one after the other, at the same rate.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# This file has the name of the package it measures; started as a script, its folder must not shadow it.
sys.path[0] = str(ROOT)

from tests.network_scanner.lab import PROGRAM, Host, Lab, most_in_a_second  # noqa: E402

NETWORK = "10.79.0.0/24"
HOSTS = 60
RATE = 100
"""Packets a second, for both."""
PAGE = "?HTTP/1.0 200 OK\r\nServer: nginx\r\n\r\n<title>Page</title>"
SSH = "!SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"


@dataclass(frozen=True)
class Row:
    """One figure. `rival` is None where there is nothing comparable; `target` is what `ours` must not exceed."""

    name: str
    ours: float
    rival: float | None
    unit: str
    target: float | None = None


def clinic(count: int = HOSTS) -> list[Host]:
    """Hosts with one to three open ports of a hundred vendors' prefixes, the same ones in every run."""
    generator, services = random.Random(7), {22: SSH, 80: PAGE, 445: "", 135: "", 5900: "", 3389: "", 554: ""}
    prefixes = ("98:e7:43", "00:0c:29", "b8:27:eb", "00:1b:21", "3c:d9:2b", "f0:9f:c2")
    hosts = []
    for number in range(count):
        ports = tuple(generator.sample(sorted(services), generator.randint(1, 3)))
        speaks = {port: services[port] for port in ports if services[port]}
        mac = f"{prefixes[number % len(prefixes)]}:00:01:{number + 1:02x}"
        hosts.append(Host(f"host{number}", mac, f"10.79.0.{number + 20}", ports, speaks))
    return hosts


def timed(lab: Lab, command: list[str]) -> tuple[float, float, str]:
    """Seconds, peak RSS in MiB and output of a command in the scanner's place."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.monotonic()
        process = subprocess.Popen(
            ["ip", "netns", "exec", lab.scanner, *command], stdout=output, stderr=subprocess.DEVNULL
        )
        # `ip netns exec` becomes the command (execve), so this is the command's own peak.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {text[:300]}")
    return seconds, usage.ru_maxrss / 1024, text


def sweep_rows(lab: Lab) -> list[Row]:
    """An ARP sweep of a /24 at the same rate by both; each asks silent addresses twice."""
    scan = [str(PROGRAM), "scan", NETWORK, "--interface", "eth0", "--json", "--listen", "0", "--sweep-only"]
    ours, memory, text = timed(lab, scan)
    rival_command = ["arp-scan", "--interface=eth0", f"--interval={1000 // RATE}", "--retry=2", "-q", "-x", NETWORK]
    theirs, their_memory, rival_text = timed(lab, rival_command)
    found, rival_found = json.loads(text)["scan"]["hosts_up"], len(rival_text.split("\n")) - 1
    return [
        Row("ARP sweep of a /24 at 100/s", round(ours, 2), round(theirs, 2), "s", round(1.2 * theirs, 2)),
        Row("ARP sweep: hosts found", found, rival_found, "hosts"),
        Row("ARP sweep: peak memory", round(memory, 1), round(their_memory, 1), "MiB"),
    ]


def inventory_rows(lab: Lab) -> list[Row]:
    """The gentle inventory of all hosts, with a capture of what it sent."""
    with tempfile.TemporaryDirectory() as folder:
        stop = lab.capture(Path(folder) / "sent.pcap")
        seconds, memory, text = timed(
            lab, [str(PROGRAM), "scan", NETWORK, "--interface", "eth0", "--json", "--listen", "0"]
        )
        packets = stop()
    per_host: dict[str, int] = {}
    for host in lab.hosts:
        own = [packet for packet in packets if host.ip == packet.target or host.mac == packet.target_mac]
        per_host[host.name] = most_in_a_second(own)
    found = json.loads(text)["scan"]["hosts_up"]
    title = f"Gentle inventory, {HOSTS} hosts x 40 ports"
    return [
        Row(title, round(seconds, 1), None, "s", 45),
        Row(f"{title}: peak memory", round(memory, 1), None, "MiB", 40),
        Row(f"{title}: hosts found", found, None, "hosts"),
        Row(f"{title}: packets sent", len(packets), None, "packets"),
        Row(f"{title}: most packets in any second", most_in_a_second(packets), None, "packets", 100),
        Row(f"{title}: most to one host in any second", max(per_host.values()), None, "packets", 10),
    ]


def measure() -> list[Row]:
    """All rows."""
    with Lab(clinic()) as lab:
        return sweep_rows(lab) + inventory_rows(lab)


if __name__ == "__main__":
    print(json.dumps([asdict(row) for row in measure()], indent=1))
