"""How the agent is doing, in the form the local API and the command line show."""

from __future__ import annotations

from pathlib import Path

from appliance_protocol.clock import ClockReading
from appliance_protocol.device_api import QueueStatus
from appliance_protocol.local_models import AgentStatus
from compliance_agent import __version__
from compliance_agent.config import Config
from compliance_agent.facts.update import update_status
from compliance_agent.state import State


def status(config: Config, state: State, now: ClockReading, problems: tuple[str, ...]) -> AgentStatus:
    """The status by what is in memory; only the updater's small file is read."""
    enrolment = state.enrolment
    return AgentStatus(
        version=__version__,
        release=state.release,
        slot=state.slot,
        enrolled=enrolment is not None,
        clock=now.state,
        score=state.score(now.wall),
        queue=QueueStatus(state.pending, state.pending_since),
        started_at=state.started_at,
        checks_at=state.checks_at,
        conforming_since=state.conforming_since,
        device_id=enrolment.device_id if enrolment else "",
        site_id=enrolment.site_id if enrolment else "",
        site_name=enrolment.site_name if enrolment else "",
        central_url=enrolment.url if enrolment else "",
        last_checkin_at=state.last_checkin_at,
        last_checkin_error=state.last_checkin_error,
        evidence_sequence=state.evidence_head.sequence,
        evidence_written_at=state.evidence_written_at,
        update=update_status(Path(config.paths.update_status)),
        problems=problems,
    )
