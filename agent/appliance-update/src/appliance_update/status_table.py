"""The status for people, as a table."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from appliance_update.clock import spoken
from appliance_update.status import Status, Term


def table_of(now: Status, trouble: str, second_thoughts: dict[str, str]) -> Table:
    """Everything an operator asks for; what says nothing is left out."""
    table = Table(box=None, show_header=False)
    for label, text in _rows(now, trouble, second_thoughts):
        if text:
            table.add_row(label, text)
    return table


def _rows(now: Status, trouble: str, second_thoughts: dict[str, str]) -> Iterator[tuple[str, str]]:
    yield "running", now.running_version or "not an image"
    yield "state", f"{now.state} {now.candidate_version}".strip()
    for name, slot in now.slots.items():
        blessed = {True: ", proved good", False: ", not proved", None: ""}[slot.blessed]
        yield f"slot {name}", f"{slot.version or '-'} ({slot.state}{blessed})"
    yield "last check", spoken(now.last_check_at) if now.last_check_at else "never"
    yield "check failed", now.last_check_error
    yield "detail", now.detail
    yield "trouble", trouble
    yield "postponed", f"until {spoken(now.postponed_until)} at the latest" if now.postponed_until else ""
    yield "order", ", then ".join(each for each in (now.order_id, *now.waiting_orders) if each)
    yield "security epoch", str(now.security_epoch or "")
    yield "snapshots", ", ".join(f"databases as {version} left them" for version in now.snapshots)
    for version, term in now.quarantine.items():
        yield "quarantined", f"{version} {_until(term)}: {term.reason}"
    for version, said in second_thoughts.items():
        yield "second thoughts", f"{version}: {said}"


def _until(term: Term) -> str:
    return f"until {spoken(term.until)}" if term.until else "for good"
