"""How the command line answers: its exit codes, its JSON, and how it says what went wrong."""

from __future__ import annotations

import sys
from typing import NoReturn

import click
import msgspec

OK, FAILED, UNAVAILABLE, USAGE, CONFIGURATION = 0, 1, 3, 64, 78


def fail(message: str, code: int = UNAVAILABLE) -> NoReturn:
    """Say what went wrong and end."""
    click.echo(f"compliance-agent: {message}", err=True)
    sys.exit(code)


def as_text(value: object) -> str:
    """A value as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
