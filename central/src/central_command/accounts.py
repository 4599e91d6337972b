"""People: who they are, what they may do, and how often a wrong password may be tried."""

from __future__ import annotations

import asyncio
import enum
import functools
import re
import time
from dataclasses import dataclass

import nacl.exceptions
import nacl.pwhash
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from central_command import audit
from central_command.audit import Actor
from central_command.database import Database
from central_command.foreign import clean
from central_command.identifiers import new_id
from central_command.settings import Settings
from central_command.tables import sessions, users

MIN_PASSWORD = 12
MAX_PASSWORD = 256
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,39}")
_HASHING = asyncio.Semaphore(2)
"""Argon2id takes 64 MiB for each password: two at a time, whoever knocks."""


class AccountError(ValueError):
    """An account that cannot be made or changed; the message says why."""


class Role(enum.StrEnum):
    """What a person may do: look, run the fleet, or also make sites and read the audit log."""

    READONLY = "readonly"
    OPERATOR = "operator"
    ADMIN = "admin"

    def may(self, needed: Role) -> bool:
        """Whether this role includes `needed`."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True)
class User:
    """A person with a login. Times are seconds since the epoch."""

    id: str
    name: str
    role: Role
    disabled: bool
    created_at: float
    last_login_at: float | None
    locked_until: float | None


def _hash(password: str) -> str:
    return nacl.pwhash.argon2id.str(
        password.encode(), opslimit=nacl.pwhash.argon2id.OPSLIMIT_INTERACTIVE,
        memlimit=nacl.pwhash.argon2id.MEMLIMIT_INTERACTIVE,
    ).decode()


@functools.cache
def _nobody() -> str:
    """Checked when the name is not known, so that the answer takes as long as for a known one."""
    return _hash("nobody has this password")


def _matches(stored: str, password: str) -> bool:
    try:
        return nacl.pwhash.verify(stored.encode(), password.encode("utf-8", "surrogatepass"))
    except (nacl.exceptions.InvalidkeyError, nacl.exceptions.CryptoError):
        return False


def _checked(password: str) -> str:
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise AccountError(f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters")
    return password


def _user(row: sa.RowMapping) -> User:
    return User(
        row["id"], row["name"], Role(row["role"]), row["disabled"], row["created_at"], row["last_login_at"],
        row["locked_until"],
    )


async def create(connection: AsyncConnection, actor: Actor, name: str, password: str, role: Role) -> User:
    """A new account. Raises `AccountError`: name not usable or taken, password too short."""
    if not _NAME.fullmatch(name):
        raise AccountError("a name has up to 40 of a-z, 0-9, '.', '_' and '-', and begins with a letter")
    hashed = await asyncio.to_thread(_hash, _checked(password))
    row = {
        "id": new_id("usr"), "name": name, "password_hash": hashed, "role": role.value, "disabled": False,
        "created_at": time.time(),
    }
    try:
        async with connection.begin_nested():
            await connection.execute(sa.insert(users).values(**row))
    except IntegrityError as error:
        raise AccountError(f"there is a user {name!r} already; central-command user set-password changes it") from error
    await audit.record(connection, actor, "user.create", name, role.value)
    return await find(connection, name)


async def find(connection: AsyncConnection, name: str) -> User:
    """The user of that name. Raises `AccountError`."""
    row = (await connection.execute(sa.select(users).where(users.c.name == name))).mappings().first()
    if row is None:
        raise AccountError(f"there is no user {clean(name, 40)!r}")
    return _user(row)


async def every(connection: AsyncConnection) -> list[User]:
    """All users by name."""
    return [_user(row) for row in (await connection.execute(sa.select(users).order_by(users.c.name))).mappings()]


async def change(
    connection: AsyncConnection, actor: Actor, name: str, *, password: str | None = None, role: Role | None = None,
    disabled: bool | None = None,
) -> User:
    """Change what is given, lift a lockout, and end the user's sessions. Raises `AccountError`."""
    user = await find(connection, name)
    news: dict[str, object] = {"failures": 0, "locked_until": None}
    if password is not None:
        news["password_hash"] = await asyncio.to_thread(_hash, _checked(password))
    if role is not None:
        news["role"] = role.value
    if disabled is not None:
        news["disabled"] = disabled
    await connection.execute(sa.update(users).where(users.c.id == user.id).values(**news))
    await connection.execute(sa.delete(sessions).where(sessions.c.user_id == user.id))
    given = {"password": password, "role": role, "disabled": disabled}
    what = ", ".join(word for word, value in given.items() if value is not None)
    await audit.record(connection, actor, "user.change", name, what or "unlocked")
    return await find(connection, name)


async def authenticate(
    database: Database, settings: Settings, name: str, password: str, address: str
) -> User | None:
    """The user, when name and password are right and the account is neither disabled nor locked.

    The answer None says no more than that. Failures count for the account, and lock it for a while.
    """
    async with database.read() as connection:
        query = sa.select(users).where(users.c.name == name[:80])
        row = (await connection.execute(query)).mappings().first() if "\0" not in name else None
    async with _HASHING:
        right = await asyncio.to_thread(
            _matches, row["password_hash"] if row is not None else _nobody(), password[:MAX_PASSWORD]
        )
    if row is None:
        return None
    now = time.time()
    async with database.write() as connection:
        return await _judge(connection, settings, row["id"], right, Actor(row["name"], address), now)


async def _judge(
    connection: AsyncConnection, settings: Settings, user_id: str, right: bool, actor: Actor, now: float
) -> User | None:
    query = sa.select(users).where(users.c.id == user_id).with_for_update()
    row = (await connection.execute(query)).mappings().one()
    locked = row["locked_until"] is not None and row["locked_until"] > now
    if locked or row["disabled"]:
        return None
    if right:
        news = {"failures": 0, "locked_until": None, "last_login_at": now}
        await connection.execute(sa.update(users).where(users.c.id == user_id).values(**news))
        await audit.record(connection, actor, "login")
        return _user(row)
    failures = row["failures"] + 1
    lock = failures >= settings.lockout_failures
    news = {"failures": 0 if lock else failures, "locked_until": now + settings.lockout_seconds if lock else None}
    await connection.execute(sa.update(users).where(users.c.id == user_id).values(**news))
    await audit.record(connection, actor, "login.locked" if lock else "login.failed")
    return None
