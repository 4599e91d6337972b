"""What an order handler is, what it may use, and how handlers are found.

A handler starts an order and, when that takes longer than a moment, is asked again until it knows the outcome. Its
memory between the two is the step's `context`, which is on disk before anything else happens, so that an order
survives restarts and reboots. A handler may raise: the order has then failed with that reason.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from appliance_protocol.evidence import EvidenceCause, Release
from appliance_protocol.orders import Order, OrderState, OrderType
from appliance_protocol.verdict import CheckResult
from compliance_agent.config import Config

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")


class OrderFailed(RuntimeError):
    """The order cannot be carried out; the message says why."""


@dataclass(frozen=True)
class Done:
    """The order has come to its end."""

    message: str
    details: dict[str, str] = field(default_factory=dict)
    state: OrderState = OrderState.COMPLETED


@dataclass(frozen=True)
class Waiting:
    """The order goes on; the handler is asked again with this context."""

    context: dict[str, str]
    message: str = ""


Step = Done | Waiting


class Services(Protocol):
    """What a handler may use of the agent."""

    config: Config

    def release(self) -> Release:
        """The image this box runs."""

    def server_time(self) -> float:
        """The best estimate of Central Command's clock, in seconds since the epoch."""

    async def check_in(self) -> None:
        """Check in now, and wait for it. Raises `OrderFailed` when it fails."""

    async def run_checks(self, cause: EvidenceCause) -> Sequence[CheckResult]:
        """Run every check now."""

    async def write_evidence(self, cause: EvidenceCause) -> int:
        """Write a bundle of the latest verdicts now. Returns its sequence; raises `OrderFailed`."""

    async def scanner(self, method: str, resource: str, model: type[Reply]) -> Reply:
        """Ask the network scanner. Raises `LocalServiceError`."""

    async def blocking(self, work: Callable[..., Reply], *arguments: Any) -> Reply:
        """Do blocking work off the loop."""


class OrderHandler(ABC):
    """Carries out one type of order."""

    type: ClassVar[OrderType]
    deadline: ClassVar[float] = 60.0
    """Seconds one call of `start` or `poll` may take."""
    patience: ClassVar[float] = 3600.0
    """Seconds from the start after which the order has failed."""
    max_attempts: ClassVar[int] = 3
    """How often the order is started when the agent is cut off in the middle of `start`."""

    @abstractmethod
    async def start(self, order: Order, services: Services) -> Step:
        """Begin. Called again, up to `max_attempts` times, when the agent was cut off before this returned."""

    async def poll(self, order: Order, context: dict[str, str], services: Services) -> Step:
        """Go on with an order that `start` left waiting."""
        raise OrderFailed(f"an order of type {self.type.value} never waits")


def discover() -> dict[OrderType, OrderHandler]:
    """Every handler in this package by its type. A file that cannot be imported is logged and left out.

    Raises `ValueError` when two handlers claim one type.
    """
    from compliance_agent import orders

    found: dict[OrderType, OrderHandler] = {}
    for module in sorted(pkgutil.iter_modules(orders.__path__), key=lambda item: item.name):
        if module.name == "base" or module.name.startswith("_"):
            continue
        for handler in _handlers_in(f"{orders.__name__}.{module.name}"):
            if handler.type in found:
                raise ValueError(f"two handlers for {handler.type.value}: the second is in {module.name}.py")
            found[handler.type] = handler
    return found


def _handlers_in(qualified: str) -> list[OrderHandler]:
    try:
        module = importlib.import_module(qualified)
        return [
            member()
            for _, member in inspect.getmembers(module, inspect.isclass)
            if issubclass(member, OrderHandler) and not inspect.isabstract(member) and member.__module__ == qualified
        ]
    except Exception:
        log.exception("%s cannot be loaded; its orders will be refused", qualified)
        return []
