"""The agent's configuration: a TOML file, read into frozen dataclasses, with an answer for every mistake.

A missing file or key takes its default, an unknown key is a warning, a key of the wrong type or out of range is an
error that names file, key and reason. The field's fatal bug was a handler that read an attribute its configuration
class did not have; here one class describes everything, and nothing reads configuration by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from compliance_agent.checks.settings import CheckSettings


@dataclass(frozen=True)
class Config:
    """The whole configuration."""

    checks: CheckSettings = field(default_factory=CheckSettings)
