"""The program `boot-health`."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from appliance_update.config import CONFIG_FILE, Config, ConfigError, load
from appliance_update.failed_boot import GATE_FILE, LastGate
from appliance_update.files import write_json
from appliance_update.gate import baseline, systemd
from appliance_update.gate.checks import Check, Hopeless, registry
from appliance_update.gate.judge import Verdict, judge
from appliance_update.history import Event
from appliance_update.host import Host
from appliance_update.store import Store


@click.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), default=CONFIG_FILE, show_default=True)
@click.option("--once", is_flag=True, help="One round, for a person: no waiting, no rehearsal, nothing is written.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as JSON, as in /run/appliance-update/gate.json.")
def main(config_path: Path, once: bool, as_json: bool) -> None:
    """Judge whether this boot is good: local facts only, no uplink needed.

    \b
    Exit codes:
      0  every check passed
      1  a check failed until the deadline, or one failed that waiting does not mend; boot-health.service then reboots
      2  the configuration cannot be used
    """
    host = Host()
    try:
        config, _ = load(config_path)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    if once:
        config = replace(config, gate=replace(config.gate, deadline=0.0, rehearsal=""))
    verdict = judge(config, host, {"configuration": configured(config_path), **registry()})
    verdict = replace(verdict, advice=advice(config, host))
    if not once:  # a person's look is no verdict on a boot
        publish(config, verdict)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(verdict), indent=1, sort_keys=True))
    else:
        click.echo(sentence(verdict), err=not verdict.passed)
        for name, text in verdict.advice.items():
            click.echo(f"boot-health: advice only: {name}: {text}")
    if not verdict.passed and verdict.counted and not once:
        tell(config, verdict)
    sys.exit(0 if verdict.passed else 1)


def configured(path: Path) -> Check:
    """A check that the configuration is there at all: without it nothing is judged, and nothing polled."""

    def check(config: Config, host: Host) -> str | None:
        return None if path.exists() else Hopeless(f"{path} is missing: this system would never look for updates")

    return check


def advice(config: Config, host: Host) -> dict[str, str]:
    """What is remarkable and decides nothing. That must not go wrong, either."""
    try:
        return baseline.advice(config, host)
    except Exception as error:
        return {"advice": f"{type(error).__name__}: {error}"[:500]}


def sentence(verdict: Verdict) -> str:
    """The verdict for people."""
    if verdict.passed:
        return f"boot-health: {verdict.version or 'this system'} is good ({verdict.seconds:.0f} s)"
    return (
        f"boot-health: {verdict.version or 'this system'} is NOT good after {verdict.seconds:.0f} s: {verdict.reason}"
    )


def publish(config: Config, verdict: Verdict) -> None:
    """Keep the verdict for the portal (/run) and for whoever boots after us (state). Neither may break the gate."""
    with contextlib.suppress(OSError):
        write_json(Path(config.paths.runtime) / "gate.json", verdict)
    with contextlib.suppress(OSError):
        last = LastGate(verdict.version, verdict.passed, verdict.reason, verdict.at)
        write_json(Path(config.paths.state) / GATE_FILE, last)


def tell(config: Config, verdict: Verdict) -> None:
    """Say why this boot ends: on the console, in the history, and in a journal that is on disk before the reboot."""
    _console(sentence(verdict))
    with contextlib.suppress(OSError):
        store = Store(Path(config.paths.state), Path(config.paths.runtime))
        store.load()
        store.note(Event.GATE_FAILED, version=verdict.version, reason=verdict.reason[:1000])
    systemd.sync_journal()


def _console(text: str) -> None:
    with contextlib.suppress(OSError), Path("/dev/console").open("w") as console:
        console.write(f"\n{text}\n")
