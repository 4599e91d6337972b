"""Reading what both sides are made of: unit files, sysusers.d, definitions in systemd's own syntax, TOML."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = sorted(path.parent for path in (*ROOT.glob("agent/*/pyproject.toml"), ROOT / "central/pyproject.toml"))
UNIT_TYPES = ("service", "socket", "timer", "path", "target", "slice", "mount")

NEWER_KEYS = {"ImportCredential": 254, "RestartSteps": 254, "RestartMaxDelaySec": 254}
"""Keys of our units that an older systemd does not know, and which version does."""


def systemd_version() -> int:
    """The version of the systemd tools of this machine, such as 252."""
    said = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.split()[1].split(".")[0])


def unit_files(distribution: Path) -> dict[str, str]:
    """File name (or `<unit>.d/<file>`) to text of the units a distribution ships."""
    folder = distribution / "systemd"
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def sections(text: str) -> list[tuple[str, str, str]]:
    """(section, key, value) of each line of a file in systemd's syntax, in order, continuation lines joined."""
    found, section = [], ""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            section = stripped[1:-1]
        elif "=" in stripped and not stripped.startswith(("#", ";")):
            key, _, value = stripped.partition("=")
            found.append((section, key.strip(), value.strip()))
    return found


def values(text: str, section: str, key: str) -> list[str]:
    """Every value assigned to a key."""
    return [value for where, name, value in sections(text) if (where, name) == (section, key)]


def definition(text: str) -> dict[tuple[str, str], str]:
    """A definition file as (section, key) to value, with the spellings of a boolean made one."""
    same = {"true": "yes", "false": "no"}
    return {(section, key): same.get(value, value) for section, key, value in sections(text)}


@dataclass(frozen=True)
class Account:
    """A system account as sysusers.d declares it."""

    name: str
    description: str
    home: str
    groups: frozenset[str]


def accounts(distribution: Path) -> dict[str, Account]:
    """The accounts a distribution's sysusers.d makes, by name."""
    lines = [
        re.findall(r'"[^"]*"|\S+', line)
        for path in sorted(distribution.glob("sysusers.d/*.conf"))
        for line in path.read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    made = {}
    for words in lines:
        if words[0].rstrip("!") == "u":
            groups = frozenset(group for kind, user, group, *_ in lines if kind == "m" and user == words[1])
            made[words[1]] = Account(words[1], words[3].strip('"'), words[4], groups)
    return made


def toml(value: dict[str, Any]) -> str:
    """A TOML document of a JSON-like value, as simple as can be: every key of the top level is one line."""
    return "".join(f"{json.dumps(key)} = {_inline(item)}\n" for key, item in value.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def verify(units: dict[str, str], folder: Path) -> list[str]:
    """What `systemd-analyze verify` has to say of unit files, their programs replaced by one that exists.

    Programs and units of other packages do not have to be installed here, and keys of a newer systemd are not faults.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in units.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"^(Exec\w+=[-@:+!|]*)/\S+", r"\1/bin/true", text, flags=re.MULTILINE))
    named = [str(folder / name) for name in units if name.rsplit(".", 1)[-1] in UNIT_TYPES and "/" not in name]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *named],
        env={"SYSTEMD_UNIT_PATH": f"{folder}:/usr/lib/systemd/system", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return [line for line in done.stderr.splitlines() if _ours(line, folder, units) and not _newer(line)]


def _ours(line: str, folder: Path, units: dict[str, str]) -> bool:
    return str(folder) in line or any(line.startswith(f"{name}:") for name in units) or "cycle" in line


def _newer(line: str) -> bool:
    key = re.search(r"Unknown key (?:name )?'(\w+)'", line)
    return key is not None and systemd_version() < NEWER_KEYS.get(key[1], 0)
