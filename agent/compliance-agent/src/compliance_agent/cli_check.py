"""`compliance-agent check`: the checks, here and now, for a person or a program."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import click

from appliance_protocol.verdict import CheckResult, Verdict, score
from compliance_agent.answers import FAILED, OK, USAGE, as_text, fail
from compliance_agent.bus import SystemBus
from compliance_agent.checking import CheckRunner
from compliance_agent.checks.base import Host, discover
from compliance_agent.config import Config
from compliance_agent.database import StoreError
from compliance_agent.facts.clock import SystemClock
from compliance_agent.privileged import PrivilegedFacts, read_facts
from compliance_agent.store import ASSIGNED, Store

COLOURS = {Verdict.PASS: "green", Verdict.FIXED: "green", Verdict.FAIL: "red", Verdict.ERROR: "magenta"}


def check(config: Config, check_ids: tuple[str, ...], as_json: bool) -> int:
    """Run and show; the exit code."""
    known = {one.id: one for one in discover()}
    unknown = [check_id for check_id in check_ids if check_id not in known]
    if unknown:
        fail(f"there is no check {', '.join(unknown)}; there are: {', '.join(known)}", USAGE)
    chosen = [known[check_id] for check_id in check_ids] if check_ids else list(known.values())
    results = asyncio.run(CheckRunner(chosen).run(_host(config)))
    if as_json:
        click.echo(as_text(results))
    else:
        _table(results)
    counted = score(results, SystemClock().read().wall)
    return OK if counted.conforming == counted.counted else FAILED


def _host(config: Config) -> Host:
    clock = SystemClock()

    def privileged() -> PrivilegedFacts:
        return read_facts(clock.read(), path=config.paths.facts)

    if os.geteuid() == 0:
        from compliance_agent.collect import collect, earlier

        collected = collect(before=earlier(Path(config.paths.facts)))

        def privileged() -> PrivilegedFacts:
            return collected

    return Host(Path("/"), config, clock, SystemBus(), privileged, _assigned(config))


def _assigned(config: Config) -> str | None:
    path = config.state / "agent.db"
    with contextlib.suppress(StoreError):
        if path.exists():
            return Store(path, read_only=True).fact(ASSIGNED)
    return None


def _table(results: list[CheckResult]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for heading in ("Verdict", "Check", "Reason", "Cites"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "Verdict")
    for result in results:
        colour = COLOURS.get(result.verdict, "yellow")
        said = escape(result.reason)
        if not result.verdict.conforms and result.verdict.counts and result.remedy:
            said += f"\n[dim]{escape(result.remedy)}[/dim]"
        cites = ", ".join(citation.reference for citation in result.citations)
        table.add_row(f"[{colour}]{result.verdict.value}[/]", escape(result.title), said, escape(cites))
    console = Console()
    console.print(table)
    counted = score(results, SystemClock().read().wall)
    percent = "no score" if counted.percent is None else f"{counted.percent} %"
    console.print(f"\n{counted.conforming} of {counted.counted} conform ({percent})")
