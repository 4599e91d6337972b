"""Every figure the project states, measured now, beside a rival's in the same run.

usage: python -m benchmarks [--json] [GROUP ...]       exit code 0: all bounds kept, 1: one missed, 2: one not measured
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.rows import Row

GROUPS = ("network_scanner", "local_portal", "central_command", "update", "appliance")
"""Modules of this package, each with `measure() -> Iterable[Row]`; `appliance` boots the virtual T640."""


def bound_of(row: Row) -> str:
    """The bound in words."""
    sign = "≤" if row.better == "lower" else "≥"
    parts = [f"{sign} {row.bound:g} {row.unit}"] if row.bound is not None else []
    parts += [f"{sign} {row.ratio_bound:g} × rival"] if row.ratio_bound is not None else []
    return ", ".join(parts) or "none set"


def table_of(rows: Iterable[Row]) -> Table:
    """The table a person reads."""
    table = Table(title="Figures of this run", title_justify="left")
    for heading in ("figure", "ours", "rival", "ours / rival", "bound", "kept"):
        table.add_column(heading, justify="left" if heading in ("figure", "bound", "kept") else "right")
    for row in rows:
        rival = f"{row.rival:.3g} {row.unit} ({row.rival_name})" if row.rival is not None else row.rival_name
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else "-"
        verdict = "-" if row.bound is None and row.ratio_bound is None else ("yes" if row.kept else "[red]NO[/]")
        table.add_row(row.name, f"{row.ours:.3g} {row.unit}", rival, ratio, bound_of(row), verdict)
    return table


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="Print rows as JSON.")
@click.argument("groups", nargs=-1, type=click.Choice(GROUPS))
def main(as_json: bool, groups: tuple[str, ...]) -> None:
    """Measure and print."""
    console = Console(stderr=True)
    rows: list[Row] = []
    missing: list[str] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for group in groups or GROUPS:
            task = progress.add_task(f"measuring {group.replace('_', ' ')}", total=1)
            measure: Callable[[], Iterable[Row]] = importlib.import_module(f"benchmarks.{group}").measure
            try:
                rows.extend(measure())
            except Exception as error:  # one figure that cannot be had must not hide the others
                missing.append(f"{group}: {error}")
            progress.update(task, completed=1)
    if as_json:
        click.echo(json.dumps({"rows": [asdict(row) | {"kept": row.kept} for row in rows], "missing": missing}))
    else:
        Console(width=150).print(table_of(rows))
        for reason in missing:
            console.print(f"[red]not measured[/] {reason}")
    raise SystemExit(2 if missing else (0 if all(row.kept for row in rows) else 1))


if __name__ == "__main__":
    main()
