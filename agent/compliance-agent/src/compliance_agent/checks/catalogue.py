"""Prints the catalogue of checks as Markdown: `python -m compliance_agent.checks.catalogue > docs/checks.md`."""

from __future__ import annotations

import sys

from appliance_protocol.verdict import Citation, Framework
from compliance_agent.checks.base import Check, discover

HEAD = """\
# Checks

What the compliance agent looks at, which requirement that supports, and what it does not prove. This page is made from
the checks themselves (`python -m compliance_agent.checks.catalogue > docs/checks.md`); edit them, not this page.

A check answers with one of XCCDF's nine verdicts and a reason. What cannot be read is `error` or `unknown`, never a
pass and never an exemption; `notapplicable` comes only from a rule that the site declared in the `[checks]` table of
the configuration. A verdict expires: after that it no longer counts as conforming. A check that could not tell looks
again after 15, 30 and 60 seconds, on facts that root collects anew, before it goes back to its interval: much of what
cannot be read is a box that is still starting.

*Coverage* says how far the check alone proves the requirement: `automated` wholly, `partial` in part, `human` not at
all without a person, for whom it only collects. No check here claims to prove a requirement wholly. *R* and *A* mark
HIPAA's required and addressable implementation specifications (45 CFR part 164, subpart C); a *standard* has none of
its own and is to be met itself. SOC 2 criteria are those of TSP section 100; their short titles are ours.
"""


def catalogue(checks: tuple[Check, ...]) -> str:
    """The whole page."""
    table = ["| Check | Title | HIPAA | SOC 2 |", "|---|---|---|---|"]
    table += [
        f"| [{check.id}](#{check.id}) | {check.title} | {_references(check, Framework.HIPAA)} "
        f"| {_references(check, Framework.SOC2)} |"
        for check in checks
    ]
    return "\n".join([HEAD, *table, "", *(_section(check) for check in checks)])


def _section(check: Check) -> str:
    citations = "\n".join(f"  - {_citation(citation)}" for citation in check.citations)
    return (
        f"## {check.id}\n\n"
        f"**{check.title}.** {(check.__doc__ or '').strip()}\n\n"
        f"- Reads: {check.reads}.\n"
        f"- Runs every {check.interval / 60:g} minutes; a verdict is good for {check.expiry / 60:g} minutes.\n"
        f"- Supports:\n{citations}\n"
        f"- Does not prove: {check.does_not_prove[0].lower()}{check.does_not_prove[1:]}\n"
        f"- When it is not a pass: {check.remedy}\n"
    )


def _citation(citation: Citation) -> str:
    if citation.framework is Framework.SOC2:
        return f"SOC 2 {citation.reference} {citation.title} ({citation.coverage})"
    mark = {True: "R", False: "A", None: "standard"}[citation.required]
    return f"45 CFR {citation.reference} {citation.title}, {mark} ({citation.coverage})"


def _references(check: Check, framework: Framework) -> str:
    return ", ".join(citation.reference for citation in check.citations if citation.framework is framework)


if __name__ == "__main__":
    sys.stdout.write(catalogue(discover()))
