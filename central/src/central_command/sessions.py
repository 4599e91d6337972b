"""Logins that last: browser sessions and API tokens, both stored as hashes only."""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from central_command.accounts import Role, User
from central_command.foreign import clean
from central_command.identifiers import fingerprint, new_token
from central_command.settings import Settings
from central_command.tables import api_tokens, enrolment_codes, sessions, users

_TOUCH = 60
"""Seconds after which a session's last use is written down again."""


@dataclass(frozen=True)
class Session:
    """Who is asking. `csrf_token` is empty for an API token: no cookie, nothing to forge."""

    user_name: str
    role: Role
    csrf_token: str
    token_hash: str


async def begin(connection: AsyncConnection, settings: Settings, user: User, address: str) -> str:
    """A new session for a user who has just shown the password. Returns the token for the cookie."""
    token, now = new_token(), time.time()
    row = {
        "token_hash": fingerprint(token), "user_id": user.id, "csrf_token": new_token(), "created_at": now,
        "seen_at": now, "expires_at": now + settings.session_lifetime, "address": clean(address, 80),
    }
    await connection.execute(sa.insert(sessions).values(**row))
    return token


async def find(connection: AsyncConnection, settings: Settings, token: str) -> tuple[Session | None, bool]:
    """The session of a cookie, if it is still good, and whether it is time to `touch` it."""
    query = (
        sa.select(sessions, users.c.name, users.c.role, users.c.disabled)
        .join(users, users.c.id == sessions.c.user_id).where(sessions.c.token_hash == fingerprint(token))
    )
    row = (await connection.execute(query)).mappings().first()
    now = time.time()
    if row is None or row["disabled"] or now >= row["expires_at"] or now - row["seen_at"] > settings.session_idle:
        return None, False
    session = Session(row["name"], Role(row["role"]), row["csrf_token"], row["token_hash"])
    return session, now - row["seen_at"] > _TOUCH


async def touch(connection: AsyncConnection, session: Session) -> None:
    """Write down that the session is in use."""
    update = sa.update(sessions).where(sessions.c.token_hash == session.token_hash).values(seen_at=time.time())
    await connection.execute(update)


async def end(connection: AsyncConnection, session: Session) -> None:
    """Log out."""
    await connection.execute(sa.delete(sessions).where(sessions.c.token_hash == session.token_hash))


async def create_token(connection: AsyncConnection, user: User, label: str, lifetime: float) -> str:
    """An API token with the user's role, shown once. `lifetime` in seconds."""
    token, now = "cct_" + new_token(), time.time()
    row = {
        "token_hash": fingerprint(token), "user_id": user.id, "label": clean(label, 120), "created_at": now,
        "expires_at": now + lifetime,
    }
    await connection.execute(sa.insert(api_tokens).values(**row))
    return token


async def find_token(connection: AsyncConnection, token: str) -> Session | None:
    """Who an API token speaks for, if it is still good."""
    query = (
        sa.select(api_tokens.c.token_hash, api_tokens.c.expires_at, users.c.name, users.c.role, users.c.disabled)
        .join(users, users.c.id == api_tokens.c.user_id).where(api_tokens.c.token_hash == fingerprint(token))
    )
    row = (await connection.execute(query)).mappings().first()
    if row is None or row["disabled"] or time.time() >= row["expires_at"]:
        return None
    return Session(row["name"], Role(row["role"]), "", row["token_hash"])


async def prune(connection: AsyncConnection, settings: Settings, now: float) -> None:
    """Forget sessions, tokens and unused codes that have been over for a while."""
    idle = sessions.c.seen_at < now - settings.session_idle
    await connection.execute(sa.delete(sessions).where(sa.or_(sessions.c.expires_at < now, idle)))
    await connection.execute(sa.delete(api_tokens).where(api_tokens.c.expires_at < now - 30 * 86400))
    old = sa.and_(enrolment_codes.c.expires_at < now - 90 * 86400, enrolment_codes.c.used_at.is_(None))
    await connection.execute(sa.delete(enrolment_codes).where(old))
