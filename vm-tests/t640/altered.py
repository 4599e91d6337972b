"""Releases that do not boot: a good version whose kernel image was altered, as a faulty build would have made it.

The altered image still names the right root hash, so that nothing but booting it can find the fault.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import shutil
from pathlib import Path

from t640 import toolroot
from t640.artifacts import Artifacts
from t640.paths import cache_directory, locked


class Alteration(enum.StrEnum):
    """What is wrong with the kernel image."""

    PANIC = "panic"
    """The kernel panics: the first program it starts ends at once."""
    EMPTY_INITRD = "empty-initrd"
    """There is nothing in the initrd; the kernel finds no root."""
    NO_INIT = "no-init"
    """The slot opens, and what should be started in it is not there."""
    FROZEN = "frozen"
    """PID 1 stands still; only the hardware watchdog is left."""
    CRASHED = "crashed"
    """PID 1 crashes."""


def _run(command: str) -> str:
    """Kernel arguments that have systemd run a command once it has started everything."""
    return f"systemd.run=\"/bin/sh -c '{command}'\""


_ARGUMENTS = {
    Alteration.PANIC: "rdinit=/usr/bin/false",
    Alteration.NO_INIT: "init=/usr/lib/nothing",
    # A shorter patience than the appliance's 30 s, which three boots would wait for.
    Alteration.FROZEN: _run("echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze") + " systemd.watchdog_sec=10",
    Alteration.CRASHED: _run("kill -SEGV 1"),
}

_SECTIONS = ("linux", "initrd", "cmdline", "osrel", "uname")


def alter(good: Artifacts, alteration: Alteration) -> Artifacts:
    """The same version with this fault, from the cache if it was made before. Raises `RigError`."""
    directory = good.directory / f"altered-{alteration}"
    with locked("altered"):
        if not (directory / "complete").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            _rebuild(good.uki, directory, alteration)
            for path in (good.data, good.verity, good.loader):
                os.link(path, directory / path.name)
            (directory / "complete").touch()
    moved = {name: directory / getattr(good, name).name for name in ("data", "verity", "uki", "loader")}
    return dataclasses.replace(good, directory=directory, **moved)


def _rebuild(uki: Path, directory: Path, alteration: Alteration) -> None:
    """Take the image apart and put it together again; the parts lie in the cache, where the tool root sees them."""
    assert directory.is_relative_to(cache_directory())
    parts = directory / "parts"
    parts.mkdir()
    dumps = [f"--dump-section=.{name}={toolroot.inside(parts / name)}" for name in _SECTIONS]
    toolroot.run(["objcopy", *dumps, str(toolroot.inside(uki)), str(toolroot.inside(parts / "rest"))])
    line = (parts / "cmdline").read_bytes().rstrip(b"\0\n").decode()
    (parts / "cmdline").write_text(" ".join(filter(None, (line, _ARGUMENTS.get(alteration)))))
    if alteration is Alteration.EMPTY_INITRD:
        (parts / "initrd").write_bytes(b"")
    name = {part: str(toolroot.inside(parts / part)) for part in _SECTIONS}
    uname = (parts / "uname").read_bytes().rstrip(b"\0\n").decode()
    toolroot.run(["ukify", "build", f"--linux={name['linux']}", f"--initrd={name['initrd']}",
                  f"--cmdline=@{name['cmdline']}", f"--os-release=@{name['osrel']}", f"--uname={uname}",
                  f"--output={toolroot.inside(directory / uki.name)}"])  # fmt: skip
    shutil.rmtree(parts)
