"""What a failed boot left behind: its journal, and the last word of its gate."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from appliance_update.files import Unreadable, decode, read_limited, write_whole
from appliance_update.host import Host

HEAD = 60
TAIL = 240
BOOTS = 3
KEEP = 6
LINE = 600
GATE_FILE = "last-gate.json"
JOURNAL = ("--output=short-iso", "--boot")


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


def collect(host: Host, directory: Path, version: str, *, since_boot: str) -> str:
    """Keep head and tail of the failed boots' journals; the file's name, empty when there is no journal.

    Best effort: a lost journal must never keep a rollback from being recorded.
    """
    try:
        boots = _boots_between(host, since_boot)
        texts = [f"== boot {boot} of {version}\n{excerpt(_journalctl(host, *JOURNAL, boot))}" for boot in boots]
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


def _boots_between(host: Host, since_boot: str) -> list[str]:
    """Ids of the boots after `since_boot` and before the present one, the last few; the one before when unknown."""
    listed = json.loads(_journalctl(host, "--list-boots", "--output=json"))
    identities = [str(boot["boot_id"]) for boot in listed]
    current = host.boot_id()
    if current in identities:
        identities = identities[: identities.index(current)]
    if since_boot in identities:
        return identities[identities.index(since_boot) + 1 :][-BOOTS:]
    return identities[-1:]


def _journalctl(host: Host, *arguments: str) -> str:
    root = [] if host.root == Path("/") else [f"--root={host.root}"]
    done = subprocess.run(
        ["journalctl", "--no-pager", "--quiet", *root, *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.decode(errors="replace")
