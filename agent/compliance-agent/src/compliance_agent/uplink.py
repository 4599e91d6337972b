"""What goes to Central Command and what comes back: check-ins, evidence, results of orders."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from appliance_protocol.clock import ClockReading
from appliance_protocol.device_api import (
    MAX_BUNDLES_PER_UPLOAD,
    CheckIn,
    CheckInReply,
    EvidenceUpload,
    QueueStatus,
)
from appliance_protocol.evidence import ChainHead, EvidenceBundle
from appliance_protocol.inventory import ScanSummary
from appliance_protocol.keys import PrivateKey
from appliance_protocol.local import LocalServiceError, request
from compliance_agent import __version__
from compliance_agent.central import Central, CentralError, Refused
from compliance_agent.checks.base import Clock, clean
from compliance_agent.config import Config
from compliance_agent.database import StoreError
from compliance_agent.evidence_writer import sign_again
from compliance_agent.facts.update import update_status
from compliance_agent.identity import Enrolment, hostname
from compliance_agent.ledger import Ledger, Sealed
from compliance_agent.offload import DeadlineMissed, in_thread, on_disk
from compliance_agent.order_runner import OrderRunner
from compliance_agent.state import ServerClock, State
from compliance_agent.store import ASSIGNED, Store

log = logging.getLogger(__name__)

EXCHANGE_DEADLINE = 100.0
"""Seconds one exchange with Central Command may take, its retries included."""
NUMBER = "checkin"
GONE = (400, 404, 409, 410, 422)
"""Answers to an order's result that will be the same for ever."""
MAX_PROBLEMS = 10
LAST_CHECKIN = "last-checkin"
"""Empty file in the state directory whose time is that of the last accepted check-in: a sign of life for others."""


class Uplink:
    """The exchanges with Central Command, one method each; every one raises `CentralError` when it fails."""

    def __init__(
        self,
        config: Config,
        state: State,
        store: Store,
        ledger: Ledger,
        clock: Clock,
        problems: Callable[[], tuple[str, ...]],
    ) -> None:
        self._config = config
        self._problems = problems
        self._state = state
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._number = 0
        self._central: Central | None = None
        self._central_for: Enrolment | None = None
        self._scan: ScanSummary | None = None
        self._remembered: str | None = None

    async def check_in(self, key: PrivateKey, orders: OrderRunner) -> float:
        """Say how the device is and take what the server answers. Returns the seconds until the next check-in."""
        state = self._state
        enrolment = state.enrolment
        if enrolment is None:
            return 2.0
        try:
            reply = await self._exchange_checkin(enrolment, key)
        except CentralError as error:
            state.last_checkin_error = str(error)
            raise
        now = self._clock.read()
        state.server_clock = ServerClock(reply.server_time, now.monotonic)
        state.last_checkin_at, state.last_checkin_error = now.wall, ""
        await self._with_disk("last check-in", on_disk(mark_checkin, self._config.state / LAST_CHECKIN))
        state.checkin_interval = min(3600, max(10, reply.checkin_interval))
        await self._take_over(reply, enrolment, key)
        await self._with_disk("orders", orders.accept(reply.orders, enrolment))
        return self.pause()

    async def _with_disk(self, where: str, work: Awaitable[object]) -> None:
        """Work that a full or failing disk may put off, but that must not spoil an exchange that has succeeded."""
        try:
            await work
            self._state.notice(where, "")
        except (StoreError, DeadlineMissed) as error:
            self._state.notice(where, f"{where}: {error}")

    def pause(self) -> float:
        """Seconds until the next check-in, moved at random so that a fleet does not knock in step."""
        jitter = self._config.central.jitter
        return self._state.checkin_interval * random.uniform(1 - jitter, 1 + jitter)  # noqa: S311 - not a secret

    async def upload(self, key: PrivateKey) -> bool:
        """Hand over one batch of bundles. Returns whether more wait."""
        state, enrolment = self._state, self._state.enrolment
        if enrolment is None or state.server_head is None:
            return False
        after = state.server_head.sequence
        bundles = await on_disk(self._ledger.unsent, enrolment.device_id, after, MAX_BUNDLES_PER_UPLOAD)
        if not bundles:
            return False
        upload = EvidenceUpload(enrolment.device_id, tuple(bundles))
        receipt = await in_thread(
            self._way(enrolment, key).send_evidence, upload, enrolment, deadline=EXCHANGE_DEADLINE, name="upload"
        )
        await self._reconcile(receipt.head, enrolment, key)
        if receipt.refused:
            reasons = "; ".join(reason[:200] for reason in receipt.refused[:3])
            raise CentralError(f"Central Command refused evidence after sequence {after}: {reasons}; it stays here")
        if receipt.head.sequence <= after:
            raise CentralError(f"Central Command took no evidence: its chain stays at {after}; it is sent again")
        return receipt.head.sequence < state.evidence_head.sequence

    async def report(self, key: PrivateKey, orders: OrderRunner) -> bool:
        """Report the outcome of one finished order. Returns whether more wait."""
        enrolment = self._state.enrolment
        if enrolment is None:
            return False
        results = await orders.unreported(enrolment.device_id)
        for result in results[:1]:
            central = self._way(enrolment, key)
            try:
                await in_thread(central.send_result, result, enrolment, deadline=EXCHANGE_DEADLINE, name="result")
            except Refused as error:
                if error.status not in GONE:
                    raise
                log.warning("the result of order %s is not wanted: %s", result.order_id, error)
            await orders.reported(result.order_id)
        return len(results) > 1

    async def _exchange_checkin(self, enrolment: Enrolment, key: PrivateKey) -> CheckInReply:
        reading = self._clock.read()
        checkin = await in_thread(self.compose, enrolment, reading, deadline=EXCHANGE_DEADLINE, name="compose")
        return await in_thread(
            self._way(enrolment, key).check_in, checkin, enrolment, deadline=EXCHANGE_DEADLINE, name="check-in"
        )

    def compose(self, enrolment: Enrolment, clock: ClockReading) -> CheckIn:
        """What the next check-in says. Takes a number of the ledger's."""
        state = self._state
        return CheckIn(
            device_id=enrolment.device_id,
            number=self._next_number(clock),
            clock=clock,
            uptime=clock.monotonic,
            hostname=hostname(),
            release=state.release,
            slot=state.slot,
            agent_version=__version__,
            score=state.score(clock.wall),
            queue=QueueStatus(state.pending, state.pending_since),
            update=update_status(Path(self._config.paths.update_status)),
            evidence_head=state.evidence_head,
            verdicts={result.check_id: result.verdict.value for result in state.results()},
            scan=self._last_scan(),
            ip_addresses=ip_addresses(),
            orders_in_progress=state.orders_in_progress,
            problems=tuple(clean(problem) for problem in self._problems()[:MAX_PROBLEMS]),
        )

    def _next_number(self, clock: ClockReading) -> int:
        """The check-in's number: kept in the ledger, and good enough without it when the disk is full.

        The wall clock lifts it, so that a lost ledger does not make this device repeat itself.
        """
        floor = max(self._number + 1, int(clock.wall))
        try:
            self._number = self._ledger.next_number(NUMBER, floor)
        except StoreError as error:
            log.debug("the check-in's number is not on disk: %s", error)
            self._number = floor
        return self._number

    def _last_scan(self) -> ScanSummary | None:
        """The scanner's newest scan; the one known before when the scanner does not answer."""
        socket_path = Path(self._config.paths.scanner_socket)
        with contextlib.suppress(LocalServiceError):
            scans = request(socket_path, "GET", "/v1/scans", list[ScanSummary], timeout=2.0)
            self._scan = scans[0] if scans else None
        return self._scan

    async def _take_over(self, reply: CheckInReply, enrolment: Enrolment, key: PrivateKey) -> None:
        """What the reply says about the release and the chain."""
        self._state.assigned_version = reply.assigned_version
        if reply.assigned_version != self._remembered:
            await self._with_disk("assigned version", self._remember(reply.assigned_version))
        await self._reconcile(reply.evidence_head, enrolment, key)

    async def _remember(self, version: str) -> None:
        await on_disk(self._store.remember, ASSIGNED, version)
        self._remembered = version

    async def _reconcile(self, server: ChainHead, enrolment: Enrolment, key: PrivateKey) -> None:
        """Bring the ledger in line with how far the server's chain reaches. Raises `StoreError`."""
        device = enrolment.device_id
        local = await on_disk(self._ledger.head, device)
        known = await on_disk(self._ledger.digest_at, device, server.sequence) if server.sequence else None
        ahead = server.sequence > local.sequence
        forked = server.sequence > 0 and known is not None and known != server.digest
        at = self._clock.read().wall
        if ahead or forked:

            def reseal(bundle: EvidenceBundle, head: ChainHead) -> Sealed:
                return sign_again(bundle, head, key)

            moved = await on_disk(self._ledger.rebase, device, server, reseal, at)
            log.warning(
                "the chain here ended at %d, Central Command's at %d: this device was set back; %d bundles moved",
                local.sequence,
                server.sequence,
                moved,
            )
            self._state.evidence_head = await on_disk(self._ledger.head, device)
        self._state.server_head = server
        await self._with_disk("receipt", on_disk(self._ledger.mark_sent, device, server.sequence, at))
        await self.count(device)

    async def count(self, device_id: str) -> None:
        """Count what waits, by the ledger and by what the server said. Raises `StoreError`."""
        known = self._state.server_head.sequence if self._state.server_head is not None else 0
        pending, oldest, size = await on_disk(self._ledger.backlog, device_id, known)
        self._state.pending, self._state.pending_since, self._state.pending_bytes = pending, oldest, size

    def _way(self, enrolment: Enrolment, key: PrivateKey) -> Central:
        """The connection to the Central Command of the present enrolment."""
        if self._central is None or self._central_for != enrolment:
            if self._central is not None:
                self._central.close()
            self._central = Central(self._config.central, enrolment.url, enrolment.ca_file, key)
            self._central_for = enrolment
        return self._central


def mark_checkin(path: Path) -> None:
    """Note that a check-in was accepted just now. Raises `StoreError`."""
    try:
        path.touch(mode=0o644)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def ip_addresses() -> tuple[str, ...]:
    """The addresses this box uses towards the world. Connecting a UDP socket sends nothing; it asks the routes."""
    found = []
    probes = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))  # RFC 5737, RFC 3849
    for family, towards in probes:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((towards, 9))
            found.append(str(probe.getsockname()[0]))
    return tuple(found)
