"""The compliance agent and the portal in the virtual T640, and a full check pass beside Lynis on this machine."""

from __future__ import annotations

import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rows import Row
from t640.machine import Machine
from t640.run import base_disk
from t640.session import open_session
from t640.world import SERVICES, World

SETTLED = "systemctl is-system-running | grep -qE 'running|degraded' && test -z \"$(systemctl list-jobs --no-legend)\""
FACTS = "/run/compliance-agent-facts/facts.json"
SERVICE_PASS = """
import http.client, socket, time
connection = http.client.HTTPConnection("localhost", timeout=120)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/compliance-agent/api.sock")
began = time.monotonic()
connection.request("POST", "/v1/checks/run")
answer = connection.getresponse()
body = answer.read()
assert answer.status == 200, body
print(time.monotonic() - began)
"""
"""A full check pass as the appliance makes it: by the running service. Timed inside the guest, without this script's
own start."""
COMMAND = "s=$(date +%s.%N); compliance-agent check --json > /dev/null || true; e=$(date +%s.%N); echo $s $e"
"""The same checks by a technician's command: Python's start and every import are part of it."""


def measure() -> Iterator[Row]:
    """Memory and check pass on the appliance itself, then the pass beside Lynis where both run on this machine."""
    yield from on_the_appliance()
    yield from beside_lynis()


def on_the_appliance() -> Iterator[Row]:
    """Boot the stand-in, let it enrol, check and settle, and read the kernel's figures."""
    with open_session() as session:
        world = World(session, hosts=())
        with world.appliance(base_disk("standin")) as machine:
            machine.start()
            machine.wait_for_boot()
            for unit in SERVICES:
                machine.wait_for_unit(unit)
            world.wait_for_device()
            machine.wait_until_succeeds("compliance-agent status --json | grep -q '\"checks_at\": *[0-9]'")
            machine.wait_until_succeeds(SETTLED)
            guest = "no rival runs in the guest"
            for unit, bound in zip(SERVICES, (60.0, 40.0, 40.0), strict=True):
                pid = machine.get_unit_property(unit, "MainPID").strip()
                kibibytes = int(machine.succeed(f"awk '/^VmRSS/ {{print $2}}' /proc/{pid}/status"))
                name = f"{unit.removesuffix('.service')}: idle RSS"
                yield Row(name, "MiB", kibibytes / 1024, None, guest, bound=bound)
            yield from _passes(machine, guest)
            yield from _updater(machine)


def _updater(machine: Machine) -> Iterator[Row]:
    """The first boot of a disk is counted, so it has passed its gate and been blessed; then nothing is left running."""
    machine.wait_until_succeeds("systemctl is-active --quiet boot-complete.target")
    begun = machine.get_unit_property("multi-user.target", "ActiveEnterTimestampMonotonic")
    ended = machine.get_unit_property("systemd-bless-boot.service", "ExecMainExitTimestampMonotonic")
    seconds = max(0.0, (int(ended) - int(begun)) / 1e6)
    title = "gate to commit, after multi-user.target (emulated)"
    yield Row(title, "s", seconds, None, "no rival has a gate", bound=60.0)
    machine.wait_until_succeeds("systemctl show -P ActiveState appliance-update.service | grep -qx inactive")
    running = "grep -lsE 'bin/(appliance-update|boot-health)' /proc/[0-9]*/cmdline | wc -l"
    count = int(machine.succeed(running))
    yield Row("updater: processes while idle", "processes", count, None, "timers and paths only", bound=0.0)


def _passes(machine: Machine, guest: str) -> Iterator[Row]:
    """Full check passes inside the guest, by the guest's clock, of three the median each.

    The bound is the service's pass with everything read anew: the collector's run as root is part of it.
    """
    ask = f"python3 -c {shlex.quote(SERVICE_PASS)}"
    anew = [float(machine.succeed(f"touch -d '1 minute ago' {FACTS} && {ask}")) for _ in range(3)]
    again = [float(machine.succeed(ask)) for _ in range(3)]
    command = [_span(machine.succeed(COMMAND)) for _ in range(3)]
    name = "full check pass on the appliance"
    yield Row(
        f"{name}, by the service, root's facts collected anew", "s", statistics.median(anew), None, guest, bound=5
    )
    yield Row(f"{name}, by the service, root's facts at hand", "s", statistics.median(again), None, guest)
    yield Row(f"{name}, `compliance-agent check` as a whole", "s", statistics.median(command), None, guest)


def _span(said: str) -> float:
    start, end = (float(word) for word in said.split())
    return end - start


def beside_lynis() -> Iterator[Row]:
    """One pass of every check as a whole process, and Lynis's audit, on the same machine one after the other."""
    lynis = shutil.which("lynis", path="/usr/sbin:/usr/bin")
    if lynis is None:
        raise RuntimeError("Lynis is not installed; `make setup` installs it")
    ours = _process([str(Path(sys.executable).with_name("compliance-agent")), "check", "--json"])
    theirs = _process([lynis, "audit", "system", "--quick", "--quiet", "--no-colors"])
    yield Row("`compliance-agent check` on this machine", "s", ours[0], theirs[0], "Lynis")
    yield Row("`compliance-agent check` on this machine: peak RSS", "MiB", ours[1], theirs[1], "Lynis, largest process")


def _process(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak RSS in MiB of a command and its children."""
    timer = (
        "import resource, subprocess; n = subprocess.DEVNULL;"
        f" subprocess.run({command!r}, stdin=n, stdout=n, stderr=n);"
        " print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", timer], capture_output=True, text=True, check=True)
    seconds = time.monotonic() - start
    found = re.search(r"\d+", done.stdout)
    assert found is not None
    return seconds, int(found.group()) / 1024
