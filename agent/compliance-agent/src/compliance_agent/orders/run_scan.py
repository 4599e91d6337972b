"""`run_scan`: have the network scanner look at the clinic's network now."""

from __future__ import annotations

from urllib.parse import quote

from appliance_protocol.inventory import ScanSummary
from appliance_protocol.orders import Order, OrderType
from compliance_agent.orders.base import Done, OrderFailed, OrderHandler, Services, Step, Waiting


class RunScan(OrderHandler):
    """Done when the scan is; a scan that already runs is waited for instead of starting another."""

    type = OrderType.RUN_SCAN
    deadline = 30.0
    patience = 7200.0

    async def start(self, order: Order, services: Services) -> Step:
        """Start the scan."""
        summary = await services.scanner("POST", "/v1/scans", ScanSummary)
        return self._step(summary)

    async def poll(self, order: Order, context: dict[str, str], services: Services) -> Step:
        """See how far it is."""
        scan_id = quote(context["scan_id"], safe="")
        return self._step(await services.scanner("GET", f"/v1/scans/{scan_id}", ScanSummary))

    def _step(self, summary: ScanSummary) -> Step:
        if summary.finished_at is None:
            return Waiting({"scan_id": summary.id}, f"Scan {summary.id} of {summary.network} runs.")
        if summary.error:
            raise OrderFailed(f"scan {summary.id} failed: {summary.error}")
        details = {"scan_id": summary.id, "hosts_up": str(summary.hosts_up), "network": summary.network}
        return Done(f"Scan {summary.id} of {summary.network} found {summary.hosts_up} devices.", details)
