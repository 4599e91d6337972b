"""What the agent knows at this moment, in memory: the disk may be full, the answer to "how are you" must not wait."""

from __future__ import annotations

from dataclasses import dataclass, field

from appliance_protocol.evidence import ChainHead, Release
from appliance_protocol.verdict import CheckResult, Score, score
from compliance_agent.identity import Enrolment


@dataclass
class ServerClock:
    """Central Command's clock as of its last reply, carried on by the monotonic one."""

    time: float
    monotonic: float


@dataclass
class State:
    """Written by the loop only; times are seconds since the epoch unless they say monotonic (CLOCK_BOOTTIME)."""

    release: Release
    slot: str
    started_at: float
    latest: dict[str, CheckResult] = field(default_factory=dict)
    checks_at: float | None = None
    passes: int = 0
    """How often every check has run since the start."""
    conforming_since: float | None = None
    enrolment: Enrolment | None = None
    assigned_version: str | None = None
    server_clock: ServerClock | None = None
    server_head: ChainHead | None = None
    """The newest bundle Central Command has; None until it said so in this run."""
    last_checkin_at: float | None = None
    last_checkin_error: str = ""
    checkin_interval: int = 60
    evidence_head: ChainHead = field(default_factory=ChainHead)
    evidence_written_at: float | None = None
    pending: int = 0
    pending_since: float | None = None
    pending_bytes: int = 0
    orders_in_progress: tuple[str, ...] = ()
    config_problems: tuple[str, ...] = ()
    notices: dict[str, str] = field(default_factory=dict)
    """What else is wrong with the agent, by where it was noticed."""

    def results(self) -> tuple[CheckResult, ...]:
        """The latest verdicts, by check id."""
        return tuple(self.latest[check_id] for check_id in sorted(self.latest))

    def score(self, now: float) -> Score:
        """The score of the latest verdicts."""
        return score(self.results(), now)

    def server_now(self, wall: float, monotonic: float) -> float:
        """The best estimate of Central Command's clock."""
        if self.server_clock is None:
            return wall
        return self.server_clock.time + (monotonic - self.server_clock.monotonic)

    def notice(self, where: str, problem: str) -> None:
        """Note a problem, or with an empty text that it is over."""
        if problem:
            self.notices[where] = problem
        else:
            self.notices.pop(where, None)
