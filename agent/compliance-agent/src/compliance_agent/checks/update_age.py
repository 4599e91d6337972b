"""The updater reaches its repository, and nothing keeps it from updating."""

from __future__ import annotations

from compliance_agent.checks import _release, _updater
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, span
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

KNOWN = frozenset(
    {
        "idle",
        "checking",
        "downloading",
        "verifying",
        "staging",
        "armed",
        "trial",
        "committed",
        "rolled_back",
        "quarantined",
    }
)

SKEW = 300.0
"""Seconds that a time stamp may lie ahead: the clock is corrected now and then."""


class UpdateAge(Check):
    """A box that cannot update is the one thing that only a site visit mends."""

    id = "update-age"
    title = "Updates are looked for and taken"
    reads = "The updater's status and history"
    citations = (
        hipaa("164.308(a)(1)(ii)(B)", PARTIAL),
        hipaa("164.308(a)(5)(ii)(B)", PARTIAL),
        soc2("CC7.1", PARTIAL),
        soc2("CC8.1", PARTIAL),
    )
    does_not_prove = "That the provider publishes releases in time: a box can be up to date with an old release."
    remedy = "Check the site's internet connection. If it works, call the provider: the box cannot reach its updates."

    def run(self, host: Host) -> Finding:
        """The age of the last look, the last outcome, and the age of the running release as a fact."""
        inputs = Inputs(host)
        status = _updater.status(inputs)
        history = _updater.history(inputs)
        release = _release.running(inputs)
        now = host.clock.read().wall
        facts = {"running version": release.version, "state": status.state}
        installed = [event.at for event in history if event.event == "committed" and event.version == release.version]
        if installed:
            facts["running since"] = f"{span(now - installed[-1])}"
        if status.state not in KNOWN:
            return inputs.unknown(f"The updater is in a state this check does not know: {status.state[:40]!r}.", facts)
        outcomes = [event for event in history if event.event in _updater.OUTCOMES]
        if outcomes and outcomes[-1].event != "committed":
            facts["reason"] = outcomes[-1].reason
            version = outcomes[-1].version or "a new release"
            return inputs.failed(f"The update to {version} failed here and was undone.", facts)
        if status.state in ("rolled_back", "quarantined"):
            return inputs.failed(f"The last update failed here and was undone (state {status.state}).", facts)
        return self._last_look(inputs, status, history, facts)

    def _last_look(
        self, inputs: Inputs, status: _updater.Status, history: list[_updater.Event], facts: dict[str, str]
    ) -> Finding:
        limit = inputs.host.config.checks.update_check_max_hours * 3600
        now = inputs.host.clock.read().wall
        if status.last_check_at is None and inputs.host.clock.read().monotonic <= limit:
            return inputs.unknown("The updater has not yet looked for updates.", facts)
        if status.last_check_at is None:
            return inputs.failed("The updater has never looked for updates, and the box has been up for days.", facts)
        reached = status.last_success_at if status.last_check_error else status.last_check_at
        if status.last_check_error:
            facts["last error"] = status.last_check_error
        if reached is None:
            return self._out_of_reach(inputs, history, now - limit, facts)
        age = now - reached
        facts["repository reached"] = f"{span(age)} ago"
        if age < -SKEW:
            path = inputs.host.config.paths.update_status
            raise CheckError(f"{path} is from the future: the clock was set back", path)
        if age > limit:
            return inputs.failed(f"The updater last reached its repository {span(age)} ago.", facts)
        return inputs.passed(f"The updater last reached its repository {span(age)} ago; nothing is in its way.", facts)

    def _out_of_reach(
        self, inputs: Inputs, history: list[_updater.Event], latest: float, facts: dict[str, str]
    ) -> Finding:
        """The last look failed, and the updater does not tell when one last went well."""
        failures = [event.at for event in history if event.event == "check_failed"]
        if failures and failures[-1] < latest:
            return inputs.failed("The updater has not reached its repository for days.", facts)
        return inputs.unknown("The updater cannot reach its repository; when it last did is not known.", facts)
