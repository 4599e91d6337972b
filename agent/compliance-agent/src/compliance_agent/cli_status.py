"""`compliance-agent status`: what the running service says of itself."""

from __future__ import annotations

import time

import click

from appliance_protocol.local import LocalServiceError, request
from appliance_protocol.local_models import AgentStatus
from compliance_agent.answers import FAILED, OK, as_text, fail
from compliance_agent.config import Config


def status(config: Config, as_json: bool) -> int:
    """Ask and show; the exit code."""
    try:
        said = request(config.runtime / "api.sock", "GET", "/v1/status", AgentStatus)
    except LocalServiceError as error:
        fail(f"{error} See `systemctl status compliance-agent`; reading the socket needs root or `appliance-local`.")
    if as_json:
        click.echo(as_text(said))
    else:
        for name, value in _lines(said):
            click.echo(f"{name:<14}{value}")
        for problem in said.problems:
            click.echo(f"{'Problem':<14}{problem}")
    return FAILED if said.problems else OK


def _lines(said: AgentStatus) -> list[tuple[str, str]]:
    enrolled = f"{said.device_id} at {said.site_name or said.site_id}, {said.central_url}"
    waiting = f"{said.queue.pending} waiting" + (f" since {_ago(said.queue.oldest_at)}" if said.queue.pending else "")
    percent = "none yet" if said.score.percent is None else f"{said.score.percent} %"
    return [
        ("Agent", f"{said.version}, up since {_ago(said.started_at)}"),
        ("Release", f"{said.release.id} {said.release.version}".strip() or "unknown"),
        ("Slot", said.slot),
        ("Clock", said.clock.value),
        ("Enrolled", enrolled if said.enrolled else "no; see `compliance-agent enrol --help`"),
        ("Check-in", _ago(said.last_checkin_at) + (f"; {said.last_checkin_error}" if said.last_checkin_error else "")),
        ("Score", f"{percent} ({said.score.conforming} of {said.score.counted}), checked {_ago(said.checks_at)}"),
        ("Evidence", f"{said.evidence_sequence}, {waiting}"),
        ("Update", f"{said.update.state} {said.update.version} {said.update.detail}".strip()),
    ]


def _ago(at: float | None) -> str:
    if at is None:
        return "never"
    seconds = time.time() - at
    if seconds < 0:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
