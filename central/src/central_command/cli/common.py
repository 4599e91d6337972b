"""What the commands share: settings, the database, and saying what happened."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from rich.console import Console
from rich.table import Table

from central_command import migrate, settings
from central_command.accounts import AccountError
from central_command.audit import Actor
from central_command.database import UNAVAILABLE, Database, DatabaseURLError, is_unavailable
from central_command.fleet import FleetError
from central_command.foreign import clean
from central_command.migrate import SchemaError
from central_command.orders import OrderError
from central_command.settings import Settings, SettingsError
from central_command.signing import ServerKeyError
from central_command.sites import SiteError

Answer = TypeVar("Answer")
REFUSED = 1
UNUSABLE = 3


@dataclass
class Context:
    """The options that stand before the command, or behind it: the last one wins."""

    config: Path | None
    data: str | None
    as_json: bool

    def settings(self, **overrides: Any) -> Settings:
        """The settings, with warnings on stderr. Ends the program with code 2 when they cannot be used."""
        try:
            found, warnings = settings.load(self.config, **{"data": self.data, **overrides})
        except SettingsError as error:
            raise click.UsageError(str(error)) from error
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
        return found

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """The database at the right schema; `central-command migrate` brings it there."""
        database = Database(self.settings().database)
        try:
            await migrate.check(database)
            yield database
        finally:
            await database.close()


def command_options(function: Callable[..., None]) -> Callable[..., None]:
    """`--json` and `--data` also behind the command, where people type them."""
    function = click.option("--json", "json_here", is_flag=True, help="Answer in JSON.")(function)
    function = click.option("--data", "data_here", help="Data directory.")(function)

    @click.pass_context
    def wrapper(context: click.Context, /, json_here: bool, data_here: str | None, **values: Any) -> None:
        shared: Context = context.obj
        shared.as_json = shared.as_json or json_here
        shared.data = data_here or shared.data
        function(shared, **values)

    wrapper.__doc__ = function.__doc__
    wrapper.__name__ = function.__name__
    wrapper.__click_params__ = function.__click_params__  # type: ignore[attr-defined]
    return wrapper


def run(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run to the end, and turn what can be expected to go wrong into a sentence and an exit code."""
    try:
        return asyncio.run(work)
    except (AccountError, FleetError, OrderError, SiteError) as error:
        fail(str(error), REFUSED)
    except (SchemaError, ServerKeyError, DatabaseURLError) as error:
        fail(str(error), UNUSABLE)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except UNAVAILABLE as error:
        if not is_unavailable(error):
            raise
        fail(f"the database cannot be used: {clean(str(error).splitlines()[0])}", UNUSABLE)


def fail(sentence: str, code: int) -> NoReturn:
    """Say it and end the program."""
    click.echo(f"error: {sentence}", err=True)
    sys.exit(code)


def actor() -> Actor:
    """Whoever sits at the terminal."""
    try:
        return Actor(f"cli:{getpass.getuser()}")
    except (KeyError, OSError):
        return Actor("cli")


def tell(context: Context, value: Any, sentence: str) -> None:
    """One answer: as JSON, or as a sentence."""
    click.echo(json.dumps(_plain(value), indent=2) if context.as_json else sentence)


def tell_rows(context: Context, values: Sequence[Any], columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Many answers: as JSON, or as a table."""
    if context.as_json:
        click.echo(json.dumps([_plain(value) for value in values], indent=2))
        return
    table = Table(*columns)
    for row in rows:
        # Plain cells: what a device wrote is neither markup nor terminal control here.
        table.add_row(*(clean(cell).replace("[", "\\[") for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
