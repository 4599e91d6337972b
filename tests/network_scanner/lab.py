"""A small network in network namespaces: a switch, a scanner's place and hosts that answer, each in a namespace.

Used by the tests and by the benchmark. Needs root, iproute2 and nothing that survives `close`.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
Text = subprocess.CompletedProcess[str]
PROGRAM = Path(sys.executable).with_name("network-scanner")

HANGS = "~"
"""What a port speaks that accepts and then neither says a word nor ever closes."""

SHOW_ROOT = """
set -e
aside=$(mktemp -d)
mount --bind "$0" "$aside"
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir -p "$0"
mount --move "$aside" "$0"
rmdir "$aside"
cd /
shift
exec "$@"
"""


def readable_by_anybody(command: Sequence[str]) -> list[str]:
    """The command, in a mount namespace of its own (`ip netns exec` makes one) where other users can enter the clone.

    A clone below root's home is closed to the unprivileged user that the programs are tested as.
    """
    closed = [folder for folder in reversed(ROOT.parents) if not folder.stat().st_mode & 0o001]
    return ["sh", "-c", SHOW_ROOT, str(ROOT), str(closed[0]), *command] if closed else list(command)


@dataclass(frozen=True)
class Host:
    """A host of the lab. `ports` are the TCP ports it listens on; `speaks` what it says first or in answer, by port."""

    name: str
    mac: str
    ip: str
    ports: tuple[int, ...] = ()
    speaks: dict[int, str] = field(default_factory=dict)
    sysctl: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Packet:
    """A captured frame and when it was sent (seconds since the epoch, of the kernel)."""

    at: float
    raw: bytes

    @property
    def target_mac(self) -> str:
        return self.raw[:6].hex(":")

    @property
    def kind(self) -> int:
        return int.from_bytes(self.raw[12:14], "big")

    @property
    def tcp_payload(self) -> bytes:
        """What a TCP segment carries; empty for anything else."""
        if self.kind != 0x0800 or self.raw[23] != 6:
            return b""
        header = (self.raw[14] & 15) * 4
        total = int.from_bytes(self.raw[16:18], "big")
        start = 14 + header
        return self.raw[start + (self.raw[start + 12] >> 4) * 4 : 14 + total]

    @property
    def target(self) -> str:
        """Whom the packet is for: the address asked for in ARP, the IP destination, else the MAC address."""
        if self.kind == 0x0806:
            return ".".join(map(str, self.raw[38:42]))
        return ".".join(map(str, self.raw[30:34])) if self.kind == 0x0800 else self.target_mac

    @property
    def target_port(self) -> int:
        """TCP or UDP port the packet goes to, 0 for anything else."""
        if self.kind != 0x0800 or self.raw[23] not in (6, 17):
            return 0
        start = 14 + (self.raw[14] & 15) * 4
        return int.from_bytes(self.raw[start + 2 : start + 4], "big")


def read_capture(path: Path) -> list[Packet]:
    """The packets of a pcap file as tcpdump writes it, the last one left out when it is cut."""
    raw, packets, at = path.read_bytes(), [], 24
    while at + 16 <= len(raw):
        seconds, micros, size, _ = struct.unpack_from("=4I", raw, at)
        if at + 16 + size > len(raw):
            break
        packets.append(Packet(seconds + micros / 1e6, raw[at + 16 : at + 16 + size]))
        at += 16 + size
    return packets


def most_in_a_second(packets: Iterable[Packet]) -> int:
    """The largest number of packets in any window of one second, wherever it starts."""
    times = sorted(packet.at for packet in packets)
    best = start = 0
    for end, at in enumerate(times):
        while at - times[start] >= 1.0:
            start += 1
        best = max(best, end - start + 1)
    return best


class Lab:
    """Namespaces `<prefix>sw` (switch), `<prefix>sc` (scanner, eth0) and one a host. Use it in a `with`."""

    def __init__(self, hosts: Sequence[Host], scanner_ip: str = "10.79.0.2/24", prefix: str = "") -> None:
        self.hosts = list(hosts)
        self.prefix = prefix or f"ns{os.getpid() % 100000}x{int(time.monotonic() * 1000) % 100000}"
        self.scanner = f"{self.prefix}sc"
        self.scanner_mac = "00:1b:21:00:00:02"
        self._switch, self._scanner_ip = f"{self.prefix}sw", scanner_ip
        self._processes: list[subprocess.Popen[bytes]] = []
        self.record = Path(f"/tmp/{self.prefix}.record")

    def __enter__(self) -> Lab:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def namespace(self, host: Host) -> str:
        """The namespace of a host."""
        return f"{self.prefix}h{self.hosts.index(host)}"

    def _build(self) -> None:
        names = [self._switch, self.scanner, *(self.namespace(host) for host in self.hosts)]
        batch("\n".join(f"netns add {name}" for name in names))
        run(["ip", "netns", "exec", self._switch, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])
        batch("link add br0 type bridge mcast_snooping 0\nlink set br0 up", self._switch)
        self._plug(self.scanner, "p0", self.scanner_mac, self._scanner_ip)
        for number, host in enumerate(self.hosts, 1):
            self._plug(self.namespace(host), f"p{number}", host.mac, f"{host.ip}/24")
            for key, value in host.sysctl.items():
                run(["ip", "netns", "exec", self.namespace(host), "sysctl", "-qw", f"{key}={value}"])
        self._serve()

    def _plug(self, namespace: str, port: str, mac: str, address: str) -> None:
        batch(
            f"link add {port} type veth peer name eth0 address {mac} netns {namespace}\n"
            f"link set {port} master br0\nlink set {port} up", self._switch,
        )
        batch(f"addr add {address} dev eth0\nlink set lo up\nlink set eth0 up", namespace)

    def _serve(self) -> None:
        """One process that listens for all hosts and records every byte they receive."""
        specification = [
            {"namespace": self.namespace(host), "name": host.name, "ports": host.ports,
             "speaks": {str(port): text for port, text in host.speaks.items()}}
            for host in self.hosts if host.ports
        ]
        self.record.write_text("")
        process = subprocess.Popen(
            [sys.executable, str(HERE / "lab_hosts.py"), json.dumps(specification), str(self.record)],
            stdout=subprocess.PIPE,
        )
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready", "the lab's hosts did not start"

    def received(self) -> dict[str, dict[int, bytes]]:
        """Bytes that hosts received, by name and port."""
        found: dict[str, dict[int, bytes]] = {}
        for line in self.record.read_text().splitlines():
            name, port, data = line.split()
            ports = found.setdefault(name, {})
            ports[int(port)] = ports.get(int(port), b"") + bytes.fromhex(data)
        return found

    def start(self, namespace: str, command: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """A process in a namespace, ended with the lab."""
        process = subprocess.Popen(["ip", "netns", "exec", namespace, *command], **options)  # type: ignore[call-overload]
        self._processes.append(process)
        return process  # type: ignore[no-any-return]

    def run(self, command: Sequence[str], *, timeout: float = 60, check: bool = True) -> Text:
        """Run a command in the scanner's place."""
        full = ["ip", "netns", "exec", self.scanner, *command]
        return subprocess.run(full, capture_output=True, text=True, timeout=timeout, check=check)

    def scan(self, *options: str, network: str = "10.79.0.0/24", timeout: float = 90) -> dict[str, object]:
        """`network-scanner scan` of the lab's network, as parsed JSON."""
        command = [str(PROGRAM), "scan", network, "--interface", "eth0", "--json", "--listen", "0", *options]
        done = self.run(command, timeout=timeout, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def capture(self, path: Path, *, namespace: str = "", direction: str = "out") -> Callable[[], list[Packet]]:
        """Start capturing what leaves the scanner; the returned function stops and reads it."""
        process = self.start(
            namespace or self.scanner,
            ["tcpdump", "-i", "eth0", "-Q", direction, "-w", str(path), "-U", "-s", "256", "-B", "4096"],
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        while b"listening on" not in process.stderr.readline():
            assert process.poll() is None, "tcpdump did not start"

        def stop() -> list[Packet]:
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            process.wait(10)
            return read_capture(path)

        return stop

    def close(self) -> None:
        """End every process and delete every namespace."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        names = [self._switch, self.scanner, *(self.namespace(host) for host in self.hosts)]
        existing = set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()
        batch("\n".join(f"netns del {name}" for name in names if name in existing))
        self.record.unlink(missing_ok=True)


def batch(lines: str, namespace: str = "") -> None:
    """Run `ip` commands in one go."""
    command = ["ip", *(["-netns", namespace] if namespace else []), "-batch", "-"]
    subprocess.run(command, input=lines.encode() + b"\n", check=True)


def run(command: Sequence[str]) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True, capture_output=True)
