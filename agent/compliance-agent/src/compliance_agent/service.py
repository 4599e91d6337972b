"""The agent as a service: one loop, its tasks, and what they share."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from appliance_protocol.evidence import EvidenceCause, Release
from appliance_protocol.keys import PrivateKey
from appliance_protocol.local import request
from appliance_protocol.local_models import AgentStatus
from appliance_protocol.verdict import CheckResult
from compliance_agent import __version__
from compliance_agent.api import LocalApi
from compliance_agent.bus import SystemBus
from compliance_agent.central import CentralError, Refused
from compliance_agent.checking import CheckRunner, Schedule
from compliance_agent.checks.base import Bus, Check, Clock, Host
from compliance_agent.checks.base import discover as discover_checks
from compliance_agent.config import Config
from compliance_agent.database import StoreError
from compliance_agent.enrolling import enrol
from compliance_agent.errors import CheckError
from compliance_agent.evidence_writer import EvidenceWriter
from compliance_agent.facts.clock import SystemClock
from compliance_agent.facts.collected import refresh
from compliance_agent.facts.release import read_release
from compliance_agent.facts.slot import slot_or_reason
from compliance_agent.identity import Identity, IdentityError, credential
from compliance_agent.ledger import Ledger
from compliance_agent.offload import DeadlineMissed, in_thread, on_disk
from compliance_agent.order_runner import OrderRunner
from compliance_agent.orders.base import OrderFailed
from compliance_agent.orders.base import discover as discover_handlers
from compliance_agent.privileged import PrivilegedFacts, read_facts
from compliance_agent.state import State
from compliance_agent.status import status
from compliance_agent.store import ASSIGNED, Store
from compliance_agent.tasks import Task
from compliance_agent.uplink import EXCHANGE_DEADLINE, Uplink
from compliance_agent.watchdog import Watchdog, notify

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")
DAY = 86400.0
COLLECT_DEADLINE = 15.0
"""Seconds a pass waits for the collector."""


class Agent:
    """Everything the tasks share, and what order handlers and the local API may ask for."""

    def __init__(
        self,
        config: Config,
        *,
        problems: Sequence[str] = (),
        clock: Clock | None = None,
        bus: Bus | None = None,
        checks: Sequence[Check] | None = None,
        root: Path = Path("/"),
    ) -> None:
        self.config = config
        self.clock = clock or SystemClock()
        self.bus = bus or SystemBus()
        self.root = root
        self.identity = Identity(config.state)
        self.key: PrivateKey | None = None
        self.store = Store(config.state / "agent.db")
        self.ledger = Ledger(config.state / "evidence.db")
        self.state = State(
            read_release(root),
            slot_or_reason(root),
            self.clock.read().wall,
            checkin_interval=config.central.checkin_interval,
            config_problems=tuple(problems),
        )
        self.runner = CheckRunner(discover_checks() if checks is None else checks)
        self.schedule = Schedule(self.runner.checks)
        self.writer = EvidenceWriter(config, self.state, self.ledger, self.clock)
        self.uplink = Uplink(config, self.state, self.store, self.ledger, self.clock, self.problems)
        self.orders = OrderRunner(self.store, discover_handlers(), self)
        self._facts_file = root / config.paths.facts.lstrip("/")
        self._pass = asyncio.Lock()
        self._enrol_pause = 2.0
        self._entered = ""
        self.tasks = self._make_tasks()

    def _make_tasks(self) -> dict[str, Task]:
        longest_order = max((handler.deadline for handler in discover_handlers().values()), default=60.0)
        tasks = (
            Task("identity", self._identity, interval=2, deadline=150),
            Task("checks", self._checks, interval=5, deadline=60),
            Task("evidence", self._evidence, interval=2, deadline=60),
            Task("check-in", self._check_in, interval=60, deadline=300),
            Task("upload", self._upload, interval=60, deadline=200),
            Task("orders", self._orders, interval=5, deadline=longest_order + 60),
            Task("results", self._results, interval=30, deadline=150),
            Task("prune", self._prune, interval=self.config.store.prune_interval, deadline=150),
        )
        return {task.name: task for task in tasks}

    # -- what a round of each task does --

    async def _identity(self) -> float:
        """Look after key and enrolment; a new enrolment takes effect here, without a restart."""
        if self.key is None:
            self.key = await on_disk(self.identity.key)
        found = await on_disk(self.identity.enrolment)
        if found is None:
            found = await self._redeem()
        if found is not None and found != self.state.enrolment:
            self.state.enrolment, self.state.server_head = found, None
            self.writer.begin()
            log.info("this is device %s of site %s", found.device_id, found.site_name or found.site_id)
            self.tasks["check-in"].wake()
        if found is not None and self._entered != found.device_id:
            await self._enter(found.device_id)
        return 2.0 if found is not None else self._enrol_pause

    async def _redeem(self) -> Any:
        """Enrol by the credential systemd passed, if there is one; for ever, ever more slowly."""
        invitation = credential()
        if invitation is None:
            return None
        try:
            return await in_thread(
                enrol, self.config.central, self.identity, invitation, self.clock, deadline=EXCHANGE_DEADLINE
            )
        except (CentralError, IdentityError) as error:
            self._enrol_pause = 300.0 if isinstance(error, Refused) else min(300.0, self._enrol_pause * 2)
            raise

    async def _enter(self, device_id: str) -> None:
        """Take up the chain of this device where the ledger left it. Without a disk, it is tried again and again."""
        self.state.evidence_head = await on_disk(self.ledger.head, device_id)
        await self.uplink.count(device_id)
        self._entered = device_id

    async def _checks(self) -> float:
        """Run the checks that are due. One that could not tell, and reads what root collected, gets it anew."""
        now = self.clock.read()
        due = self.schedule.due(now.wall, now.monotonic)
        if any(self.schedule.retried(check) and self.runner.asked_for_privileged(check) for check in due):
            await self._collect()
        if due:
            await self._run_pass(due)
        return self.schedule.pause(self.clock.read().monotonic, 5.0)

    async def _evidence(self) -> None:
        """Write a bundle if one is due."""
        if self.key is not None and await self.writer.write_due(self.key):
            self.tasks["upload"].wake()

    async def _check_in(self) -> float:
        """Check in."""
        if self.key is None:
            return 2.0
        self.tasks["check-in"].interval = self.uplink.pause()  # should this one fail
        pause = await self.uplink.check_in(self.key, self.orders)
        for name in ("upload", "orders", "results"):
            self.tasks[name].wake()
        return pause

    async def _upload(self) -> float | None:
        """Hand over evidence, batch by batch."""
        more = self.key is not None and await self.uplink.upload(self.key)
        return 0.0 if more else None

    async def _orders(self) -> float | None:
        """Go one step with one order."""
        if self.state.enrolment is None:
            return None
        more = await self.orders.step(self.state.enrolment.device_id)
        self.state.orders_in_progress = self.orders.open
        if more:
            self.tasks["results"].wake()
        return 0.0 if more else None

    async def _results(self) -> float | None:
        """Report one finished order."""
        more = self.key is not None and await self.uplink.report(self.key, self.orders)
        return 0.0 if more else None

    async def _prune(self) -> None:
        """Keep the disk bounded. Without a believable time nothing is old."""
        now = self.clock.read()
        if self.state.server_clock is not None:
            wall = min(now.wall, self.state.server_now(now.wall, now.monotonic))
        elif now.state == "synchronised":
            wall = now.wall
        else:
            return
        await on_disk(self.store.prune, wall - self.config.store.retention_days * DAY)
        if self.state.enrolment is not None:
            before = wall - self.config.evidence.retention_days * DAY
            await on_disk(self.ledger.prune, self.state.enrolment.device_id, before)

    # -- what order handlers and the local API may ask for (`orders.base.Services`, `api.Served`) --

    def release(self) -> Release:
        """The image this box runs."""
        return self.state.release

    def server_time(self) -> float:
        """The best estimate of Central Command's clock."""
        now = self.clock.read()
        return self.state.server_now(now.wall, now.monotonic)

    async def check_in(self) -> None:
        """Check in now. Raises `OrderFailed`."""
        error = await self.tasks["check-in"].run_now()
        if error:
            raise OrderFailed(f"the check-in failed: {error}")

    async def run_checks(self, cause: EvidenceCause) -> list[CheckResult]:
        """Run every check now, on facts collected now."""
        await self._collect()
        return await self._run_pass(self.runner.checks)

    async def write_evidence(self, cause: EvidenceCause) -> int:
        """Write a bundle now. Raises `OrderFailed`."""
        if self.key is None:
            raise OrderFailed("the device has no key yet")
        try:
            entry = await self.writer.write(cause, self.key)
        except (StoreError, RuntimeError) as error:
            raise OrderFailed(str(error)) from error
        self.tasks["upload"].wake()
        return entry.sequence

    async def scanner(self, method: str, resource: str, model: type[Reply]) -> Reply:
        """Ask the network scanner. Raises `LocalServiceError`."""
        path = Path(self.config.paths.scanner_socket)
        return await in_thread(request, path, method, resource, model, deadline=10, name="scanner")

    async def blocking(self, work: Callable[..., Reply], *arguments: Any) -> Reply:
        """Blocking work off the loop."""
        return await on_disk(work, *arguments)

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the agent itself."""
        tasks = (f"{task.name}: {task.error}" for task in self.tasks.values() if task.error)
        aside = (
            f"{database.path} was damaged and begun anew; the damaged one is {database.set_aside}"
            for database in (self.store.database, self.ledger.database)
            if database.set_aside
        )
        schemas = (d.problem for d in (self.store.database, self.ledger.database) if d.problem)
        return (*self.state.config_problems, *self.state.notices.values(), *aside, *schemas, *tasks)

    def status(self) -> AgentStatus:
        """How the agent is doing."""
        return status(self.config, self.state, self.clock.read(), self.problems())

    # -- checks --

    def host(self) -> Host:
        """The box as the checks of one pass see it; they share one reading of what root collected."""
        return Host(
            root=self.root,
            config=self.config,
            clock=self.clock,
            bus=self.bus,
            read_privileged=functools.cache(self._privileged),
            assigned_version=self.state.assigned_version,
        )

    def _privileged(self) -> PrivilegedFacts:
        return read_facts(self.clock.read(), self.root, path=self.config.paths.facts)

    async def _collect(self) -> None:
        """Have the collector run now, unless it has just run. Without it the checks go by what it left."""
        try:
            await in_thread(refresh, self.bus, self._facts_file, deadline=COLLECT_DEADLINE, name="collect")
        except (CheckError, DeadlineMissed) as error:
            log.warning("privileged facts were not collected anew: %s", error)

    async def _run_pass(self, checks: Sequence[Check]) -> list[CheckResult]:
        async with self._pass:
            results = await self.runner.run(self.host(), checks)
            now = self.clock.read()
            self.schedule.ran(results, now.monotonic)
            self.state.latest.update((result.check_id, result) for result in results)
            self.state.checks_at = now.wall
            if len(checks) == len(self.runner.checks):
                self.state.passes += 1
            await self._record(results, now.wall)
        return results

    async def _record(self, results: list[CheckResult], wall: float) -> None:
        """Keep verdicts and score; without a disk they live in memory alone."""
        score = self.state.score(wall)
        try:
            await on_disk(self.store.record, results, score, wall)
            self.state.conforming_since = await on_disk(self.store.conforming_since)
            self.state.notice("store", "")
        except (StoreError, DeadlineMissed) as error:
            self.state.notice("store", str(error))
            if score.conforming < score.counted:
                self.state.conforming_since = None

    # -- life --

    async def load(self) -> None:
        """Take up what the last run left on disk; a disk that does not answer costs the memory, not the start."""
        ids = {check.id for check in self.runner.checks}
        try:
            latest = await on_disk(self.store.latest)
            self.state.latest = {result.check_id: result for result in latest if result.check_id in ids}
            self.state.conforming_since = await on_disk(self.store.conforming_since)
            self.state.assigned_version = await on_disk(self.store.fact, ASSIGNED)
            await on_disk(self.store.forget, ids)
        except (StoreError, DeadlineMissed) as error:
            self.state.notice("store", str(error))

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self.load()
        api = LocalApi(self, self.config.runtime / "api.sock")
        self.tasks["api"] = Task("api", api.tend, interval=2, deadline=30)
        for task in self.tasks.values():
            task.start()
        watchdog = Watchdog(lambda: [task.report() for task in self.tasks.values()], self.config.runtime / "progress")
        watching = asyncio.create_task(watchdog.run(), name="watchdog")
        notify(f"READY=1\nSTATUS=compliance-agent {__version__}, {len(self.runner.checks)} checks")
        await stop.wait()
        notify("STOPPING=1")
        watching.cancel()
        await asyncio.gather(*(task.stop() for task in self.tasks.values()))
        await api.stop()
        with contextlib.suppress(StoreError):
            self.store.database.close()
            self.ledger.database.close()
