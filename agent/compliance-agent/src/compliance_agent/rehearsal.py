"""The rehearsal of an update order: would this release's agent carry out the order that brings its fix?

In the field a release died of exactly that order, and nobody noticed while it was new. So a new system walks an order
through the real runner and handler, with the device's real configuration, before it may become good, and again every
day. Whatever the walk writes lies in a scratch directory; of the device's own files it only reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance_protocol.envelope import Envelope, PayloadType, seal
from appliance_protocol.keys import PrivateKey
from appliance_protocol.orders import Order, OrderState, OrderType
from appliance_protocol.wire import canonical
from compliance_agent import config_file
from compliance_agent.config import Config
from compliance_agent.database import StoreError, code
from compliance_agent.facts.update import read_history, update_status
from compliance_agent.identity import ENROLMENT_FILE, KEY_FILE, Enrolment, Identity
from compliance_agent.ledger import Ledger
from compliance_agent.service import Agent
from compliance_agent.store import OrderRecord, Store

DEADLINE = 90.0
"""Seconds for the whole of it."""
VERSION = "9999.12.1"
"""What the rehearsed order asks for; no device runs it."""
KEPT, LOST = "rehearsal-kept", "rehearsal-lost"
"""Two orders: one whose update is committed, one whose update is rolled back."""
UNREADABLE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_BUSY", "SQLITE_FULL")
"""Errors of a database that no other release would read either."""


class RehearsalError(RuntimeError):
    """A stage did not do what it must; the message says which and what."""


@dataclass
class Report:
    """How it ended. `remarks` are worth a look and decide nothing."""

    passed: bool = False
    reason: str = ""
    seconds: float = 0.0
    stages: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def rehearse(config_path: Path, scratch: Path) -> Report:
    """Walk through all stages with the configuration in `config_path`. Whatever breaks is a failure with its reason."""
    report, started = Report(), time.monotonic()
    try:
        asyncio.run(_in_time(config_path, scratch, report))
        report.passed = True
    except RehearsalError as error:
        report.reason = str(error)
    except TimeoutError:
        report.reason = f"after {', '.join(report.stages) or 'nothing'}: no end within {DEADLINE:.0f} s"
    report.seconds = round(time.monotonic() - started, 1)
    return report


async def _in_time(config_path: Path, scratch: Path, report: Report) -> None:
    async with asyncio.timeout(DEADLINE):
        await _Walk(scratch, report).through(config_path)


class _Walk:
    """One rehearsal."""

    def __init__(self, scratch: Path, report: Report) -> None:
        self._scratch = scratch
        self._report = report
        self._server = PrivateKey.generate()

    async def through(self, config_path: Path) -> None:
        """Every stage."""
        with self._stage("configuration"):
            reading = config_file.load_leniently(config_path)
            self._report.remarks += reading.errors
        with self._stage("identity"):
            enrolment = self._enrolment(reading.config)
        with self._stage("books"):
            self._read_books(reading.config, enrolment.device_id)
        with self._stage("the updater's files"):
            self._read_updaters_files(reading.config)
        with self._stage("start"):
            agent = self._agent(reading.config)
        with self._stage("take the order"):
            envelopes = [self._order(enrolment, identifier) for identifier in (KEPT, LOST)]
            taken = await agent.orders.accept(envelopes, enrolment)
            require(taken == 2, f"of two orders of Central Command {taken} were taken")
        with self._stage("ask the updater"):
            await self._sweep(agent, enrolment)
            self._check_requests(agent)
        with self._stage("follow the update"):
            await self._follow(agent, enrolment)
        with self._stage("report"):
            await self._check_reports(agent, enrolment)

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        try:
            yield
        except RehearsalError as error:
            raise RehearsalError(f"{name}: {error}") from error
        except TimeoutError:
            raise
        except Exception as error:  # an exception nobody thought of is what this is for
            raise RehearsalError(f"{name}: {type(error).__name__}: {error}") from error
        self._report.stages.append(name)

    # -- what is there ------------------------------------------------------------------------------------------------

    def _enrolment(self, config: Config) -> Enrolment:
        """The device's place in the world as this release reads it, with the rehearsal's key as the server's.

        A file that is no JSON is no fault of this release; one that this release cannot read is.
        """
        identity, kept = Identity(config.state), None
        path = config.state / ENROLMENT_FILE
        if path.exists():
            try:
                json.loads(path.read_bytes())
            except ValueError as error:
                self._report.remarks.append(f"{path} is damaged: {error}")
            else:
                kept = identity.enrolment()
        if (config.state / KEY_FILE).exists():
            identity.key()
        device = kept or Enrolment("rehearsal", "rehearsal", "Rehearsal", "https://localhost", (), 0.0)
        return dataclasses.replace(device, server_keys=(self._server.public.text,))

    def _read_books(self, config: Config, device_id: str) -> None:
        """The databases as the release before wrote them must be readable: they are not migrated during a trial."""
        store, ledger = (config.state / name for name in ("agent.db", "evidence.db"))
        if store.exists():
            books = Store(store, read_only=True)
            with self._readable(store):
                books.latest()
                books.open_orders()
                books.unreported_orders()
            books.database.close()
        if ledger.exists():
            evidence = Ledger(ledger, read_only=True)
            with self._readable(ledger):
                evidence.unsent(device_id, evidence.head(device_id).sequence - 1, 1)
                evidence.backlog(device_id)
            evidence.database.close()

    @contextlib.contextmanager
    def _readable(self, path: Path) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, sqlite3.Error) and code(cause).startswith(UNREADABLE):
                self._report.remarks.append(f"{path}: {error}")
            else:
                raise RehearsalError(f"{path}: {error}") from error
        except (KeyError, ValueError, TypeError) as error:
            raise RehearsalError(f"{path}: this release reads it in vain: {error!r}") from error

    def _read_updaters_files(self, config: Config) -> None:
        update_status(Path(config.paths.update_status))
        read_history(Path(config.paths.update_history))
        box = Path(config.paths.update_requests)
        if box.is_dir():
            require(os.access(box, os.W_OK | os.X_OK), f"no request can be dropped into {box}")
        else:
            self._report.remarks.append(f"{box} is not there: is the updater installed?")

    # -- the order ----------------------------------------------------------------------------------------------------

    def _agent(self, config: Config) -> Agent:
        """The whole agent as the service makes it, with everything it writes in the scratch directory."""
        names = {name: self._scratch / name for name in ("state", "runtime", "requests")}
        for directory in names.values():
            directory.mkdir(parents=True, exist_ok=True)
        paths = dataclasses.replace(
            config.paths,
            state=str(names["state"]),
            runtime=str(names["runtime"]),
            update_requests=str(names["requests"]),
            update_status=str(self._scratch / "status.json"),
            update_history=str(self._scratch / "history.jsonl"),
        )
        return Agent(dataclasses.replace(config, paths=paths))

    def _order(self, enrolment: Enrolment, identifier: str) -> Envelope:
        now = time.time()
        order = Order(
            identifier, enrolment.device_id, OrderType.UPDATE.value, now - 60, now + 86400, {"version": VERSION}
        )
        return seal(order, PayloadType.ORDER, self._server)

    async def _sweep(self, agent: Agent, enrolment: Enrolment) -> None:
        while await agent.orders.step(enrolment.device_id):
            pass

    def _check_requests(self, agent: Agent) -> None:
        for identifier in (KEPT, LOST):
            self._expect(agent, identifier, OrderState.EXECUTING)
            path = self._scratch / "requests" / f"{identifier}.json"
            require(path.is_file(), f"order {identifier}: no request was dropped for the updater")
            request = json.loads(path.read_bytes())
            asked = (request.get("order_id"), request.get("version"))
            require(asked == (identifier, VERSION), f"the request asks the updater for {asked}")

    async def _follow(self, agent: Agent, enrolment: Enrolment) -> None:
        """Play the updater: at work, then a commit for one order and a rollback for the other."""
        status = {"format": 1, "state": "downloading", "order_id": KEPT, "candidate_version": VERSION}
        (self._scratch / "status.json").write_text(json.dumps(status))
        await self._sweep(agent, enrolment)
        self._expect(agent, KEPT, OrderState.EXECUTING)
        events = [
            {"format": 1, "at": 1.0, "event": event, "version": VERSION, "order_id": order, "reason": "a rehearsal"}
            for order, event in ((KEPT, "committed"), (LOST, "rolled_back"))
        ]
        (self._scratch / "history.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
        await self._sweep(agent, enrolment)
        self._expect(agent, KEPT, OrderState.COMPLETED)
        self._expect(agent, LOST, OrderState.FAILED)

    async def _check_reports(self, agent: Agent, enrolment: Enrolment) -> None:
        """What Central Command would be told can be told: results, a check-in, the status."""
        results = await agent.orders.unreported(enrolment.device_id)
        require(len(results) == 2, f"two results have to be reported, there are {len(results)}")
        for result in results:
            seal(result, PayloadType.ORDER_RESULT, self._server)
        checkin = await agent.blocking(agent.uplink.compose, enrolment, agent.clock.read())
        seal(checkin, PayloadType.CHECKIN, self._server)
        canonical(agent.status())

    def _expect(self, agent: Agent, identifier: str, state: OrderState) -> None:
        record: OrderRecord | None = agent.store.order(identifier)
        if record is None or record.state is not state:
            now = f"{record.state.value}: {record.message}" if record else "forgotten"
            raise RehearsalError(f"the update order should be {state.value}, it is {now}")


def require(condition: bool, sentence: str) -> None:
    """Raise `RehearsalError` with the sentence unless the condition holds."""
    if not condition:
        raise RehearsalError(sentence)
