"""`run_checks`: run every check now and write the verdicts as evidence."""

from __future__ import annotations

from collections import Counter

from appliance_protocol.evidence import EvidenceCause
from appliance_protocol.orders import Order, OrderType
from compliance_agent.orders.base import Done, OrderHandler, Services, Step


class RunChecks(OrderHandler):
    """Done when the evidence is on disk."""

    type = OrderType.RUN_CHECKS
    deadline = 60.0

    async def start(self, order: Order, services: Services) -> Step:
        """Run the checks, write the bundle, and say what they said."""
        results = await services.run_checks(EvidenceCause.ORDER)
        sequence = await services.write_evidence(EvidenceCause.ORDER)
        counts = Counter(result.verdict.value for result in results)
        said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) or "no checks"
        details = {verdict: str(count) for verdict, count in counts.items()} | {"evidence_sequence": str(sequence)}
        return Done(f"{len(results)} checks ran: {said}; evidence {sequence}.", details)
