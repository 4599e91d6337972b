"""The network scanner beside arp-scan, on a switch with sixty hosts in namespaces. Needs root.

`python -m benchmarks network_scanner` prints the rows. Both programs run on the same lab one after the other, at the
same rate. The inventory is taken twice: once of hosts whose services answer, once with a third of the hosts hanging,
which is what old equipment does: every port that they open accepts, and none ever says a word or closes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.rows import Better, Row
from tests.network_scanner.lab import HANGS, PROGRAM, Host, Lab, most_in_a_second

NETWORK = "10.79.0.0/24"
HOSTS = 60
RATE = 100
"""Packets a second, for both."""
HANGING_SHARE = 3
"""One host in so many hangs in the second inventory."""
PAGE = "?HTTP/1.0 200 OK\r\nServer: nginx\r\n\r\n<title>Page</title>"
SSH = "!SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"


def clinic(count: int = HOSTS, hanging_share: int = 0) -> list[Host]:
    """Hosts with one to three open ports each, the same ones in every run; every `hanging_share`-th one hangs."""
    generator, services = random.Random(7), {22: SSH, 80: PAGE, 445: "", 135: "", 5900: "", 3389: "", 554: ""}
    prefixes = ("98:e7:43", "00:0c:29", "b8:27:eb", "00:1b:21", "3c:d9:2b", "f0:9f:c2")
    hosts = []
    for number in range(count):
        ports = tuple(generator.sample(sorted(services), generator.randint(1, 3)))
        hangs = hanging_share > 0 and number % hanging_share == 0
        speaks = {port: HANGS if hangs else services[port] for port in ports if hangs or services[port]}
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
        Row("ARP sweep of a /24 at 100 packets/s", "s", ours, theirs, "arp-scan", ratio_bound=1.2),
        Row("ARP sweep: hosts found", "hosts", found, rival_found, "arp-scan", Better.HIGHER, ratio_bound=1.0),
        Row("ARP sweep: peak memory", "MiB", memory, their_memory, "arp-scan"),
    ]


def inventory_rows(lab: Lab, title: str) -> list[Row]:
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
    found = json.loads(text)
    opened = sum(len(host.ports) for host in lab.hosts)
    open_found = sum(len(device["services"]) for device in found["devices"])
    alone = "no rival keeps this pace"
    return [
        Row(title, "s", seconds, None, alone, bound=45),
        Row(f"{title}: peak memory", "MiB", memory, None, alone, bound=40),
        Row(f"{title}: hosts found", "hosts", found["scan"]["hosts_up"], None, alone, Better.HIGHER, bound=HOSTS),
        Row(f"{title}: open ports found", "ports", open_found, None, alone, Better.HIGHER, bound=opened),
        Row(f"{title}: packets sent", "packets", len(packets), None, alone),
        Row(f"{title}: most packets in any second", "packets", most_in_a_second(packets), None, alone, bound=100),
        Row(f"{title}: most to one host in any second", "packets", max(per_host.values()), None, alone, bound=10),
    ]


def measure() -> list[Row]:
    """All rows."""
    title = f"Gentle inventory, {HOSTS} hosts × 40 ports"
    with Lab(clinic()) as lab:
        rows = sweep_rows(lab) + inventory_rows(lab, title)
    with Lab(clinic(hanging_share=HANGING_SHARE)) as lab:
        return rows + inventory_rows(lab, f"{title}, every third accepts and never answers")
