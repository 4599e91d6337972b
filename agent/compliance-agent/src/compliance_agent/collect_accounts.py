"""Accounts for the collector: who is in passwd, whether a password opens the account, and which SSH keys do.

Hashes and keys stay where they are: of a password only its state is told, of a key its fingerprint.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from pathlib import Path

from compliance_agent.privileged import Account, AuthorizedKey, PasswordState

DEFAULT_KEY_FILES = (".ssh/authorized_keys", ".ssh/authorized_keys2", "/etc/ssh/authorized_keys.d/%u")
"""sshd's own default, and where NixOS puts declared keys; in force when sshd does not say."""
MAX_KEY_FILE = 1 << 20
MAX_KEYS = 200
KEY_TYPE = re.compile(r"(?:^|\s)((?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+)\s+([A-Za-z0-9+/=]+)(?:\s+(.*))?$")


def read_accounts(root: Path, sshd_settings: str = "") -> tuple[Account, ...]:
    """Every account. Raises `OSError` when passwd cannot be read, `ValueError` when it is damaged."""
    states = _password_states(root / "etc/shadow")
    groups = _groups(root / "etc/group")
    patterns = _key_files(sshd_settings)
    accounts = []
    for line in (root / "etc/passwd").read_text(errors="replace").splitlines():
        if not line or line.startswith(("#", "+", "-")):
            continue
        fields = line.split(":")
        if len(fields) != 7 or not fields[2].isdigit() or not fields[3].isdigit():
            raise ValueError(f"/etc/passwd: a line with {len(fields)} fields, the first {fields[0][:40]!r}")
        name, passwd, uid, gid, _, home, shell = fields
        keys, error = _keys(root, name, home, patterns)
        accounts.append(
            Account(
                name=name,
                uid=int(uid),
                gid=int(gid),
                home=home,
                shell=shell,
                password=states.get(name, PasswordState.UNKNOWN) if passwd == "x" else password_state(passwd),  # noqa: S105
                groups=tuple(sorted(group for group, members in groups.items() if name in members)),
                keys=keys,
                error=error,
            )
        )
    return tuple(accounts)


def password_state(field: str) -> PasswordState:
    """What the password field of shadow(5) means, without keeping it."""
    if field == "":
        return PasswordState.EMPTY
    return PasswordState.LOCKED if field.startswith(("!", "*")) else PasswordState.SET


def _password_states(path: Path) -> dict[str, PasswordState]:
    states = {}
    for line in path.read_text(errors="replace").splitlines():
        name, _, rest = line.partition(":")
        if name and rest:
            states[name] = password_state(rest.split(":")[0])
    return states


def _groups(path: Path) -> dict[str, tuple[str, ...]]:
    groups = {}
    for line in path.read_text(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) == 4:
            groups[fields[0]] = tuple(filter(None, fields[3].split(",")))
    return groups


def _key_files(sshd_settings: str) -> tuple[str, ...]:
    """Where sshd looks for keys, by `sshd -T`."""
    for line in sshd_settings.splitlines():
        key, _, value = line.partition(" ")
        if key.lower() == "authorizedkeysfile":
            return tuple(part for part in value.split() if part.lower() != "none")
    return DEFAULT_KEY_FILES


def _keys(root: Path, name: str, home: str, patterns: tuple[str, ...]) -> tuple[tuple[AuthorizedKey, ...], str]:
    keys: list[AuthorizedKey] = []
    errors = []
    for pattern in patterns:
        expanded = pattern.replace("%h", home).replace("%u", name).replace("%%", "%")
        file = expanded if expanded.startswith("/") else f"{home.rstrip('/')}/{expanded}"
        try:
            text = _read_foreign(root / file.lstrip("/"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            errors.append(f"{file}: {error.strerror or error}")
            continue
        lines = [line.strip() for line in text.splitlines()]
        keys += [parse_key(file, line) for line in lines if line and not line.startswith("#")]
    if len(keys) > MAX_KEYS:
        errors.append(f"{len(keys)} keys, only {MAX_KEYS} are told")
    return tuple(keys[:MAX_KEYS]), "; ".join(errors)


def _read_foreign(path: Path) -> str:
    """A file that an account's owner controls: no waiting for a pipe, no endless device. Raises `OSError`."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file", str(path))
        if status.st_size > MAX_KEY_FILE:
            raise OSError(0, f"larger than {MAX_KEY_FILE} bytes", str(path))
        return file.read(MAX_KEY_FILE).decode(errors="replace")


def parse_key(file: str, line: str) -> AuthorizedKey:
    """One line of authorized_keys (sshd(8)). A line that is no key is told as such, without its text."""
    match = KEY_TYPE.search(line)
    if match is None:
        return AuthorizedKey(file, "", error="a line that is not a key")
    kind, blob, comment = match.group(1), match.group(2), match.group(3) or ""
    try:
        raw = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return AuthorizedKey(file, "", kind, error="a key that is not base64")
    digest = base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
    return AuthorizedKey(file, f"SHA256:{digest}", kind, comment[:200], line[: match.start(1)].strip()[:500])
