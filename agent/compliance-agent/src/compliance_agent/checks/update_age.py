"""The updater reaches its repository, and nothing keeps it from updating."""

from __future__ import annotations

from compliance_agent.checks import _release, _updater
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, span
from compliance_agent.checks.base import Check, CheckError, Finding, Host

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


class UpdateAge(Check):
    """A box that cannot update is the one thing that only a site visit mends."""

    id = "update-age"
    title = "Updates are looked for and taken"
    citations = (
        hipaa("164.308(a)(1)(ii)(B)", PARTIAL),
        hipaa("164.308(a)(5)(ii)(B)", PARTIAL),
        soc2("CC7.1", PARTIAL),
        soc2("CC8.1", PARTIAL),
    )
    does_not_prove = "That the provider publishes releases in time: a box can be up to date with an old release."
    remedy = "Check the site's internet connection. If other things work, call the provider: the box cannot reach its updates."

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
        last = history[-1] if history else None
        failed = last is not None and last.event in ("rolled_back", "quarantined")
        if last is not None and (failed or status.state in ("rolled_back", "quarantined")):
            facts["reason"] = last.reason
            return inputs.failed(f"The update to {last.version or 'a new release'} failed here and was undone.", facts)
        return self._last_look(inputs, status, now, facts)

    def _last_look(self, inputs: Inputs, status: _updater.Status, now: float, facts: dict[str, str]) -> Finding:
        limit = inputs.host.config.checks.update_check_max_hours * 3600
        if status.last_check_error:
            facts["last error"] = status.last_check_error
        if status.last_check_at is None:
            return inputs.failed("The updater has never reached its repository.", facts)
        age = now - status.last_check_at
        facts["last look"] = f"{span(age)} ago"
        if age < -SKEW:
            raise CheckError(f"{_updater.STATUS} is from the future: the clock was set back", _updater.STATUS)
        if age > limit:
            return inputs.failed(f"The updater last reached its repository {span(age)} ago.", facts)
        return inputs.passed(f"The updater last reached its repository {span(age)} ago; nothing is in its way.", facts)


SKEW = 300.0
"""Seconds that a time stamp may lie ahead: the clock is corrected now and then."""
