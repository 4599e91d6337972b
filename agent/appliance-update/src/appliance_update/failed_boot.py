"""What a failed boot left behind: its journal, and the last word of its gate."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from appliance_update.files import Unreadable, decode, read_limited, write_whole

HEAD = 60
TAIL = 240
BOOTS = 3
KEEP = 6
LINE = 600
GATE_FILE = "last-gate.json"


@dataclass(frozen=True)
class LastGate:
    """The gate's last verdict, kept on the state partition because /run dies with the boot."""

    version: str
    passed: bool
    reason: str = ""
    at: float = 0.0


def last_gate_failure(state: Path, version: str) -> str:
    """Why the gate of this version failed last; empty when it never got so far."""
    try:
        last = decode(read_limited(state / GATE_FILE, 64 * 1024), LastGate, GATE_FILE)
    except (OSError, Unreadable):
        return ""
    return last.reason[:1000] if last.version == version and not last.passed else ""


def collect(directory: Path, version: str, *, since_boot: str, current_boot: str) -> str:
    """Keep head and tail of the failed boots' journals; the file's name, empty when there is no journal.

    Best effort: a lost journal must never keep a rollback from being recorded.
    """
    try:
        boots = _boots_between(since_boot, current_boot)
        texts = [f"== boot {boot} of {version}\n{excerpt(_journal(boot))}" for boot in boots]
        if not texts:
            return ""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{version}-{boots[-1][:8]}.log"
        write_whole(path, "\n".join(texts).encode(errors="replace"), 0o640)
        for old in sorted(directory.glob("*.log"), key=lambda item: item.stat().st_mtime)[:-KEEP]:
            old.unlink(missing_ok=True)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return ""
    return path.name


def excerpt(text: str) -> str:
    """First and last lines of a journal, each cut to a bearable length."""
    lines = [line[:LINE] for line in text.splitlines()]
    if len(lines) > HEAD + TAIL:
        lines = [*lines[:HEAD], f"… {len(lines) - HEAD - TAIL} lines left out …", *lines[-TAIL:]]
    return "\n".join(lines) + "\n"


def _boots_between(since_boot: str, current_boot: str) -> list[str]:
    """Ids of the boots after `since_boot` and before the present one, the last few; the one before when unknown."""
    done = subprocess.run(
        ["journalctl", "--list-boots", "--output=json", "--no-pager"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    identities = [str(boot["boot_id"]) for boot in json.loads(done.stdout)]
    if current_boot in identities:
        identities = identities[: identities.index(current_boot)]
    if since_boot in identities:
        return identities[identities.index(since_boot) + 1 :][-BOOTS:]
    return identities[-1:]


def _journal(boot: str) -> str:
    done = subprocess.run(
        ["journalctl", f"--boot={boot}", "--output=short-iso", "--no-pager", "--quiet"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.decode(errors="replace")
