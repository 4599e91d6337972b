"""Named places where a test can cut the power.

Every write that must survive a power cut is preceded by a `point`. In a unit test a hook is told of it. On a test rig
a real machine fails there: `APPLIANCE_UPDATE_FAULT`, or the text of the file `/run/appliance-update/faults-allowed`,
says `name:action` (several by blanks; `name#3:action` means the third time in a process; a name that ends in `*` means
every name that begins so). Only root can make that file, nothing on an appliance does, and without it nothing here
does anything. A fault strikes once a boot; `/run/appliance-update/faults-hit` then has its name.
"""

from __future__ import annotations

import enum
import errno
import os
import signal
import stat
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

VARIABLE = "APPLIANCE_UPDATE_FAULT"
ALLOWED = Path("/run/appliance-update/faults-allowed")
HIT = "faults-hit"

Hook = Callable[[str], None]


class Action(enum.StrEnum):
    """What happens at a fault: SIGKILL, an immediate reboot without sync, a full or a failing disk, a hang."""

    KILL = "kill"
    REBOOT = "reboot"
    ENOSPC = "enospc"
    EIO = "eio"
    HANG = "hang"


@dataclass(frozen=True)
class Fault:
    """One fault: at the `count`th time that `name` is passed."""

    name: str
    action: Action
    count: int = 1

    def matches(self, name: str) -> bool:
        """Whether it is meant for this place."""
        return name.startswith(self.name[:-1]) if self.name.endswith("*") else name == self.name


@dataclass
class Rig:
    """Strikes the given faults, each once in the life of `hits` (a file in /run: once a boot)."""

    faults: tuple[Fault, ...]
    hits: Path
    strike: Callable[[Action], None]
    passed: Counter[str] = field(default_factory=Counter)

    def __call__(self, name: str) -> None:
        """Pass a place."""
        for fault in self.faults:
            if not fault.matches(name):
                continue
            key = f"{fault.name}#{fault.count}:{fault.action}"
            self.passed[key] += 1
            if self.passed[key] == fault.count and self._first(key):
                self.strike(fault.action)

    def _first(self, key: str) -> bool:
        struck = self.hits.read_text().split() if self.hits.exists() else []
        if key in struck:
            return False
        with self.hits.open("a") as file:
            file.write(f"{key}\n")
        return True


def parse(text: str) -> tuple[Fault, ...]:
    """Read `name:action` words. Raises `ValueError` for any other: no test shall pass by a typo."""
    found = []
    for word in text.split():
        name, _, action = word.rpartition(":")
        name, _, count = name.partition("#")
        if not name:
            raise ValueError(f"{word!r} is not name:action")
        found.append(Fault(name, Action(action), int(count or 1)))
    return tuple(found)


def strike(action: Action) -> None:
    """Do it. Raises `OSError` for the two that are errors; the others do not come back."""
    if action is Action.KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    elif action is Action.REBOOT:
        Path("/proc/sysrq-trigger").write_text("b")  # at once: nothing is synced, nothing unmounted
    elif action in (Action.ENOSPC, Action.EIO):
        number = errno.ENOSPC if action is Action.ENOSPC else errno.EIO
        raise OSError(number, os.strerror(number))
    while action in (Action.HANG, Action.REBOOT):
        time.sleep(3600)


def armed(allowed: Path = ALLOWED) -> Hook | None:
    """The rig's hook, when a file that belongs to root and that nobody else can write allows it."""
    try:
        facts = allowed.lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != 0 or facts.st_mode & 0o022:
            return None
        wanted = parse(f"{os.environ.get(VARIABLE, '')} {allowed.read_text()}")
    except FileNotFoundError:
        return None
    return Rig(wanted, allowed.with_name(HIT), strike) if wanted else None


_hook: Hook | None = None
_looked = False


def point(name: str) -> None:
    """Give the hook, if there is one, the chance to fail here."""
    global _hook, _looked
    if not _looked:
        _looked = True
        _hook = _hook or armed()
    if _hook is not None:
        _hook(name)


def set_hook(hook: Hook | None) -> None:
    """Install a hook, or take it away with None."""
    global _hook
    _hook = hook
