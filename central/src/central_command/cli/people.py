"""`user` and `token`."""

from __future__ import annotations

import sys

import click

from central_command import accounts, audit, sessions
from central_command.accounts import Role, User
from central_command.cli.common import Context, actor, command_options, run, tell, tell_rows
from central_command.shown import when

_ROLES = click.Choice([role.value for role in Role])


@click.group()
def user() -> None:
    """People who may log in."""


def _password(prompt: str) -> str:
    """From the terminal twice, or one line of standard input: never from the command line, where others see it."""
    if sys.stdin.isatty():
        return str(click.prompt(prompt, hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")


@user.command()
@click.argument("name")
@click.option("--role", type=_ROLES, default=Role.OPERATOR.value, show_default=True)
@command_options
def create(context: Context, name: str, role: str) -> None:
    """Make an account. The password is asked for, or read as one line from standard input."""
    password = _password(f"Password for {name}")

    async def work() -> User:
        async with context.database() as database, database.write() as connection:
            return await accounts.create(connection, actor(), name, password, Role(role))

    made = run(work())
    tell(context, made, f"user {made.name} ({made.role}) can log in")


@user.command(name="list")
@command_options
def list_users(context: Context) -> None:
    """Show all accounts."""

    async def work() -> list[User]:
        async with context.database() as database, database.read() as connection:
            return await accounts.every(connection)

    found = run(work())
    rows = [
        (item.name, item.role.value, "disabled" if item.disabled else "", when(item.last_login_at),
         when(item.locked_until)) for item in found
    ]
    tell_rows(context, found, ("name", "role", "state", "last login", "locked until"), rows)


@user.command(name="set-password")
@click.argument("name")
@command_options
def set_password(context: Context, name: str) -> None:
    """Set a new password, lift a lockout, and end the user's sessions."""
    _change(context, name, password=_password(f"New password for {name}"))


@user.command()
@click.argument("name")
@command_options
def unlock(context: Context, name: str) -> None:
    """Lift a lockout."""
    _change(context, name)


@user.command()
@click.argument("name")
@command_options
def disable(context: Context, name: str) -> None:
    """Take the login away and end the user's sessions."""
    _change(context, name, disabled=True)


def _change(context: Context, name: str, *, password: str | None = None, disabled: bool | None = None) -> None:
    async def work() -> User:
        async with context.database() as database, database.write() as connection:
            return await accounts.change(connection, actor(), name, password=password, disabled=disabled)

    changed = run(work())
    tell(context, changed, f"user {changed.name} changed")


@click.group()
def token() -> None:
    """API tokens for scripts."""


@token.command(name="create")
@click.option("--user", "name", required=True, help="Whose role the token has.")
@click.option("--label", default="", help="What it is for.")
@click.option("--days", type=click.IntRange(1, 730), default=90, show_default=True)
@command_options
def create_token(context: Context, name: str, label: str, days: int) -> None:
    """Make a token and show it this once."""

    async def work() -> str:
        async with context.database() as database, database.write() as connection:
            owner = await accounts.find(connection, name)
            await audit.record(connection, actor(), "token.create", name, label)
            return await sessions.create_token(connection, owner, label, days * 86400)

    text = run(work())
    tell(context, {"token": text, "user": name}, text)
