"""`make run`: the whole product on a virtual T640, from an empty machine to a table of doors to knock at."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from t640 import central, disk, recovery, releases, toolroot, world
from t640.accelerator import accelerator
from t640.clinic import truth
from t640.errors import GuestTimeout, Missing, RigError
from t640.image import build
from t640.machine import PATIENCE_S, Machine
from t640.paths import REPOSITORY, cache_directory
from t640.session import open_session
from t640.steps import Detail, elapsed, step
from t640.world import World


@dataclass(frozen=True)
class Ready:
    """What a newcomer wants to know once everything is up."""

    portal_url: str
    claim_code: str
    central_url: str
    central_login: str
    central_password: str
    devices: list[dict[str, Any]]
    score_conforming: int
    score_counted: int
    version: str
    files: str
    seconds: float


def run(image: str, *, keep: bool, as_json: bool, once: bool) -> None:
    """Bring everything up, show the table, and stay until Ctrl-C. Raises `RigError`."""
    began = time.monotonic()
    base = base_disk(image)
    with open_session(keep_files=keep) as session:
        with step("Clinic, Central Command and update repository"):
            here = World(session)
        machine = here.appliance(base)
        with machine:
            ready = _bring_up(here, machine, began)
            show(ready, as_json=as_json, once=once)
            if not once:
                with contextlib.suppress(KeyboardInterrupt):
                    _stay(machine)
                _say("\nStopping the machine, the clinic and Central Command.")
    _say(f"Stopped. Logs and disks are in {session.work}." if keep else "Stopped. Nothing is left running.")


def base_disk(image: str) -> Path:
    """The disk to boot: the stand-in, the NixOS image, or any file. Raises `Missing` or `RigError`."""
    if image == "standin":
        return _stand_in()
    if image == "nixos":
        return _nixos()
    path = Path(image).expanduser()
    if not path.is_file():
        raise Missing(f"{path} is no disk image. IMAGE= takes standin, nixos, or the path of a raw or qcow2 disk.")
    return path.resolve()


def _stand_in() -> Path:
    version = (REPOSITORY / "VERSION").read_text().strip()
    with step("Image builder (mkosi from Debian packages)"):
        toolroot.ensure()
    with step(f"Stand-in image {version}") as detail:
        artifacts = build(releases.recipe(version), detail)
    with step("Recovery") as detail:
        rescue = recovery.build(detail=detail)
    with step("Disk"):
        return disk.assemble(artifacts, rescue)


def _nixos() -> Path:
    nix = shutil.which("nix")
    if nix is None:
        raise Missing(
            "IMAGE=nixos builds the NixOS image and needs Nix: install it (https://nixos.org/download) with a "
            "substituter, or run `make run` for the stand-in made of Debian packages."
        )
    command = [nix, "--extra-experimental-features", "nix-command flakes", "build", "--no-link", "--print-out-paths",
               f"{REPOSITORY}#image"]  # fmt: skip
    with step("NixOS image (nix build)") as detail:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                detail(line.strip()[:70])
            output = process.stdout.read()
        if process.returncode != 0:
            end = "".join(lines[-15:])
            raise RigError(
                f"nix build of the image failed. It needs a reachable substituter (or hours to compile):\n{end}"
            )
    return _unpacked(Path(output.split()[-1]))


def _unpacked(result: Path) -> Path:
    """The raw disk of a Nix result, unpacked into the cache if it is compressed."""
    found = sorted(path for pattern in ("*.raw", "*.raw.zst") for path in result.rglob(pattern)
                   if not any(part in path.name for part in (".usr", ".verity", ".data")))  # fmt: skip
    if not found:
        raise RigError(f"{result} holds no disk image (*.raw, *.raw.zst).")
    if found[0].suffix != ".zst":
        return found[0]
    target = cache_directory() / f"{result.name}.raw"
    if not target.exists():
        partial = target.with_suffix(".partial")
        subprocess.run(["zstd", "-q", "-d", "-f", "--sparse", str(found[0]), "-o", str(partial)], check=True)
        partial.rename(target)
    return target


def _bring_up(here: World, machine: Machine, began: float) -> Ready:
    with step(f"Appliance boots ({accelerator()})") as detail:
        machine.start()
        boot = _boot(machine, detail)
    with step("Services") as detail:
        for unit in world.SERVICES:
            detail(unit)
            machine.wait_for_unit(unit)
    with step("Enrolment and first check-in"):
        here.wait_for_device()
    here.central.assign(boot.version)
    with step("First compliance checks"):
        _wait_for_checks(machine)
    with step("First scan of the clinic") as detail:
        devices = _wait_for_scan(machine, detail)
    with step("Compliance checks, once the start is over") as detail:
        score = _settled_score(machine, detail)
    claim = json.loads(machine.succeed("local-portal claim-code --json"))
    portal_port, central_port = here.open_doors()
    return Ready(
        portal_url=f"https://127.0.0.1:{portal_port}",
        claim_code=str(claim.get("claim_code") or claim.get("code") or ""),
        central_url=f"https://127.0.0.1:{central_port}",
        central_login=central.ADMINISTRATOR,
        central_password=here.central.password,
        devices=devices,
        score_conforming=int(score["conforming"]),
        score_counted=int(score["counted"]),
        version=boot.version,
        files=str(here.session.work),
        seconds=time.monotonic() - began,
    )


def _boot(machine: Machine, detail: Detail) -> Any:
    end = time.monotonic() + 2 * PATIENCE_S
    while True:
        detail(machine.console_tail(1)[-60:])
        try:
            return machine.channel.next_boot(1.0)
        except GuestTimeout:
            if time.monotonic() > end:
                machine.wait_for_boot(1.0)


def _wait_for_checks(machine: Machine) -> None:
    end = time.monotonic() + PATIENCE_S
    while not world.agent_status(machine).get("checks_at"):
        if time.monotonic() > end:
            said = machine.unit_log("compliance-agent.service")
            raise GuestTimeout(f"The agent ran no checks within {PATIENCE_S} s.\n{said}")
        time.sleep(1.0)


def _settled_score(machine: Machine, detail: Detail) -> dict[str, Any]:
    """The score when every check could look: under emulation some run into their time limit during the start."""
    end = time.monotonic() + PATIENCE_S / 2
    while time.monotonic() < end:
        results = world.api(machine, "compliance-agent", "/v1/checks/run", method="POST")
        blind = [item["check_id"] for item in results if item["verdict"] == "error"]
        if not blind:
            break
        detail(f"{', '.join(blind)[:50]} could not look yet")
        time.sleep(3.0)
    return dict(world.agent_status(machine)["score"])


def _wait_for_scan(machine: Machine, detail: Detail) -> list[dict[str, Any]]:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        status = world.scanner_status(machine)
        detail(f"{status.get('device_count', 0)} devices")
        if status.get("last_scan_at") and not status.get("scanning"):
            return world.devices(machine)
        time.sleep(1.0)
    raise GuestTimeout(f"No scan was finished within {PATIENCE_S} s.\n{machine.unit_log('network-scanner.service')}")


def show(ready: Ready, *, as_json: bool, once: bool) -> None:
    """The table, or the same as JSON on standard output."""
    if as_json:
        sys.stdout.write(json.dumps(dataclasses.asdict(ready), indent=2) + "\n")
        sys.stdout.flush()
        return
    console = Console()
    found = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name, width in (("device", None), ("class", 11), ("address", 13), ("why", None)):
        found.add_column(name, no_wrap=True, overflow="ellipsis", min_width=width)
    for device in sorted(ready.devices, key=lambda item: (item["device_class"], item["name"])):
        addresses = device.get("ip_addresses") or [""]
        # A device without a name of its own is called after its vendor and address; the address has its own column.
        name = device["name"].removesuffix(f" ({addresses[0]})")
        why = (device.get("reasons") or [""])[0]
        found.add_row(*(_plain(text) for text in (name[:28], device["device_class"], ", ".join(addresses), why)))
    scores = truth.judge({mac: item["device_class"] for item in ready.devices for mac in item["mac_addresses"]})
    right = sum(score.found for score in scores.values())
    present = sum(score.present for score in scores.values())
    doors = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    doors.add_row("Local portal", f"[bold]{ready.portal_url}[/]", f"claim code [bold]{ready.claim_code}[/]")
    login = f"{ready.central_login} / [bold]{ready.central_password}[/]"
    doors.add_row("Central Command", f"[bold]{ready.central_url}[/]", login)
    conforming = f"{ready.score_conforming} of {ready.score_counted} checks conform"
    doors.add_row("Compliance", f"[bold]{conforming}[/]", f"release {ready.version}")
    doors.add_row("Scan", f"[bold]{len(ready.devices)} devices[/]", f"{right} of {present} classified as they are")
    doors.add_row("Up after", elapsed(ready.seconds), f"logs in {ready.files}")
    console.print(Panel(found, title="What the scanner found", title_align="left", border_style="dim"))
    console.print(Panel(doors, title="The appliance is up", title_align="left", border_style="green"))
    if not once:
        console.print(
            "Both certificates are the clinic's own: the browser warns once. [bold]Ctrl-C stops everything.[/]"
        )


def _plain(text: object) -> str:
    return str(text).replace("[", "\\[")


def _stay(machine: Machine) -> None:
    while machine.booted:
        time.sleep(0.5)
    raise RigError(f"The machine has switched itself off.\n{machine.console_tail()}")


def _say(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, markup=False)
