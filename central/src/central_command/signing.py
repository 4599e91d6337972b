"""The server's key: made at the first start, known to every device since, and so never replaced silently."""

from __future__ import annotations

import time
from pathlib import Path

import sqlalchemy as sa

from appliance_protocol.keys import KeyFormatError, PrivateKey
from central_command.database import Database, give_to_owner_of_directory
from central_command.tables import server_keys

KEY_FILE = "server.key"


class ServerKeyError(RuntimeError):
    """A server key that is missing, damaged or not the one the devices know; the message says what to do."""


async def load_or_create(data: Path, database: Database) -> PrivateKey:
    """The key in the data directory; a new one only while the database has never known any.

    A lost key would make every device refuse every order, so it stops the start instead. Raises `ServerKeyError`.
    """
    path = data / KEY_FILE
    async with database.write() as connection:
        known = set((await connection.execute(sa.select(server_keys.c.key_id))).scalars())
        key = _load(path)
        if key is None and known:
            raise ServerKeyError(f"{path} is missing, but devices trust {', '.join(known)}: restore it from the backup")
        if key is not None and known and key.public.key_id not in known:
            wanted = ", ".join(known)
            raise ServerKeyError(f"{path} is {key.public.key_id}, but devices trust {wanted}: restore the right key")
        if key is None:
            key = PrivateKey.generate()
            key.save(path)
            give_to_owner_of_directory(path)
        if not known:
            row = {"key_id": key.public.key_id, "public_key": key.public.text, "created_at": time.time()}
            await connection.execute(sa.insert(server_keys).values(**row))
    return key


def _load(path: Path) -> PrivateKey | None:
    try:
        return PrivateKey.load(path)
    except FileNotFoundError:
        return None
    except (KeyFormatError, OSError) as error:
        raise ServerKeyError(str(error)) from error
