"""The agent's configuration: one class describes everything, and nothing reads configuration by name.

The field's fatal bug was an order handler that read an attribute its configuration class did not have. Here every
key has a type and a default, `config_file` reads it, and the type checker sees every use.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from appliance_protocol.wire import canonical
from compliance_agent.checks.settings import CheckSettings

Seconds = Annotated[float, Meta(ge=1, le=86400)]
AbsolutePath = Annotated[str, Meta(pattern="^/", max_length=1024)]


@dataclass(frozen=True)
class CentralConfig:
    """The `[central]` table: how Central Command is reached. Where it is comes with the enrolment."""

    proxy: Annotated[str, Meta(max_length=512)] = ""
    """`http://proxy:3128`, when the clinic wants one; empty takes HTTPS_PROXY of the environment."""
    ca_file: Annotated[str, Meta(max_length=1024)] = ""
    """PEM file of the authorities to trust, in place of the enrolment's and the system's."""
    connect_timeout: Seconds = 10.0
    read_timeout: Seconds = 20.0
    checkin_interval: Annotated[int, Meta(ge=10, le=3600)] = 60
    """Seconds between check-ins until the server says otherwise."""
    jitter: Annotated[float, Meta(ge=0, le=0.5)] = 0.1
    """Share of the interval by which a check-in moves at random, so that a fleet does not knock in step."""


@dataclass(frozen=True)
class EvidenceConfig:
    """The `[evidence]` table."""

    interval: Annotated[int, Meta(ge=60, le=86400)] = 3600
    """Seconds after which a bundle is written though nothing changed."""
    change_spacing: Annotated[int, Meta(ge=1, le=3600)] = 60
    """Shortest time in seconds between two bundles written on change: a flapping check fills no disk."""
    retention_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    """Days a bundle is kept after Central Command took it. One it has not taken is kept."""
    unsent_limit_mib: Annotated[int, Meta(ge=1, le=16384)] = 256
    """Above this much unsent evidence, only the bundles of the schedule are written."""


@dataclass(frozen=True)
class StoreConfig:
    """The `[store]` table: what else is kept, and how long."""

    retention_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    prune_interval: Annotated[int, Meta(ge=60, le=604800)] = 86400


@dataclass(frozen=True)
class PathConfig:
    """The `[paths]` table: where other programs of the appliance leave what the agent reads."""

    state: AbsolutePath = "/var/lib/compliance-agent"
    runtime: AbsolutePath = "/run/compliance-agent"
    facts: AbsolutePath = "/run/compliance-agent-facts/facts.json"
    update_status: AbsolutePath = "/run/appliance-update/status.json"
    update_history: AbsolutePath = "/var/lib/appliance-update/history.jsonl"
    update_requests: AbsolutePath = "/run/appliance-update/requests"
    scanner_socket: AbsolutePath = "/run/network-scanner/api.sock"


@dataclass(frozen=True)
class Config:
    """The whole configuration."""

    log_level: Annotated[str, Meta(pattern="(?i)^(debug|info|warning|error)$")] = "info"
    central: CentralConfig = field(default_factory=CentralConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    paths: PathConfig = field(default_factory=PathConfig)
    checks: CheckSettings = field(default_factory=CheckSettings)

    @property
    def state(self) -> Path:
        """The state directory: key, enrolment and databases."""
        return Path(self.paths.state)

    @property
    def runtime(self) -> Path:
        """The runtime directory: socket and progress file."""
        return Path(self.paths.runtime)

    @property
    def policy_digest(self) -> str:
        """SHA-256 of the settings the checks ran under, as evidence names it."""
        return hashlib.sha256(canonical(self.checks)).hexdigest()
