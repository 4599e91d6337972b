"""An image's tree booted as a container: the image's own systemd, units and programs at the speed of the machine.

What belongs to the firmware, the loader and the disk is missing: there is one read-only tree and a volatile /var, the
loader's variable is a plain file, and a reboot is the end. It shows in seconds what units do, above all the failing
ones; the virtual machine stays the judge of everything that boots.

Namespaces of its own for mounts, processes, network, names and control groups; without the capabilities that reach
beyond them (clock, modules, raw devices).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from t640.artifacts import Artifacts
from t640.errors import GuestError, GuestTimeout, Missing

_VARIABLE = "sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

_ENTER = r"""
set -e
mount --make-rprivate /
mkdir -p "$WORK/cgroup"
mount -t cgroup2 cgroup2 "$WORK/cgroup"
mkdir -p "$WORK/cgroup/$NAME"
echo $$ >"$WORK/cgroup/$NAME/cgroup.procs"
umount "$WORK/cgroup"
exec unshare --mount --pid --fork --kill-child --cgroup --net --ipc --uts sh -c "$START"
"""

_START = r"""
set -e
R=$WORK/root
mkdir -p "$WORK/lower" "$WORK/over" "$R"
mount -t erofs -o ro "$IMAGE" "$WORK/lower" 2>/dev/null || mount -t erofs -o ro,loop "$IMAGE" "$WORK/lower"
mount -t tmpfs tmpfs "$WORK/over"; mkdir "$WORK/over/up" "$WORK/over/work"
mount -t overlay overlay -o "lowerdir=$WORK/lower,upperdir=$WORK/over/up,workdir=$WORK/over/work" "$R"
mount -t proc proc "$R/proc"
mount --bind "$R/proc/sys" "$R/proc/sys"; mount -o remount,bind,ro "$R/proc/sys"
mount -t sysfs -o ro sysfs "$R/sys"
mount -t tmpfs tmpfs "$R/sys/firmware"; mkdir -p "$R/sys/firmware/efi/efivars"
mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
for place in run tmp var dev; do mount -t tmpfs -o mode=755 tmpfs "$R/$place"; done
chmod 1777 "$R/tmp"
for node in null zero full random urandom tty; do touch "$R/dev/$node"; mount --bind "/dev/$node" "$R/dev/$node"; done
mkdir "$R/dev/pts" "$R/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$R/dev/pts"; ln -s pts/ptmx "$R/dev/ptmx"
mount -t tmpfs tmpfs "$R/dev/shm"; ln -s /proc/self/fd "$R/dev/fd"
touch "$R/dev/console"; mount --bind "$TERMINAL" "$R/dev/console"
cp -r "$FILES/." "$R/"
ip link set lo up
cd "$R"
pivot_root . tmp
umount -l /tmp
mount -t tmpfs -o mode=1777 tmpfs /tmp
exec env -i container=t640 PATH=/usr/sbin:/usr/bin setpriv --inh-caps -all \
    --bounding-set -sys_time,-sys_module,-sys_rawio,-syslog,-sys_ptrace \
    /usr/lib/systemd/systemd --system --log-target=journal systemd.unit=multi-user.target
"""

_LEAVE = r"""
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$WORK/cgroup"
find "$WORK/cgroup/$NAME" -depth -type d -exec rmdir {} +
umount "$WORK/cgroup"
"""

FILES: Mapping[str, str] = {
    "etc/machine-id": "5dd80d6f6e7f4b3fa1d1e6f4f2e2ac11\n",
    "etc/systemd/system/var.mount": "[Mount]\nWhat=tmpfs\nWhere=/var\nType=tmpfs\n",
    "etc/systemd/system/console-getty.service": "[Service]\nType=oneshot\nExecStart=/usr/bin/true\n",
    # Not every kernel that builds images has user namespaces.
    "etc/systemd/system/local-portal.service.d/10-container.conf": "[Service]\nPrivateUsers=no\n",
}
"""What the container has other than the image."""


class Container:
    """A running container; use it as a context manager. `files` go on top of the image (path → text)."""

    def __init__(self, image: Artifacts, files: Mapping[str, str] | None = None, *, counter: str = "+2-1") -> None:
        if os.geteuid() != 0:
            raise Missing("A container needs root.")
        if "erofs" not in Path("/proc/filesystems").read_text():
            raise Missing("This kernel does not mount erofs, which the image's root is.")
        self._work = Path(tempfile.mkdtemp(prefix="t640-container-"))
        self._name = self._work.name
        top = self._work / "files"
        for name, text in {**FILES, **(files or {})}.items():
            path = top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if counter:
            path = top / _VARIABLE
            path.parent.mkdir(parents=True, exist_ok=True)
            entry = f"\\EFI\\Linux\\t640_{image.version}{counter}.efi\0"
            path.write_bytes(b"\6\0\0\0" + entry.encode("utf-16-le"))
        self._main, terminal = os.openpty()
        self._read = bytearray()
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "WORK": str(self._work), "NAME": self._name, "FILES": str(top),
            "IMAGE": str(image.data), "TERMINAL": os.ttyname(terminal), "START": _START,
        }  # fmt: skip
        os.set_blocking(self._main, False)
        with (self._work / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", _ENTER],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._terminal = terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for handle in (self._main, self._terminal):
            os.close(handle)
        names = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "WORK": str(self._work), "NAME": self._name}
        leave = ["unshare", "--mount", "sh", "-c", _LEAVE]
        subprocess.run(leave, env=names, capture_output=True, check=False)
        shutil.rmtree(self._work, ignore_errors=True)

    def console(self) -> str:
        """What was written to the console so far."""
        while True:
            try:
                chunk = os.read(self._main, 65536)
            except (BlockingIOError, OSError):
                return self._read.decode(errors="replace")
            if not chunk:
                return self._read.decode(errors="replace")
            self._read += chunk

    @property
    def ended(self) -> bool:
        """Whether it is over: a reboot, or the end of its first process."""
        self.console()
        return self._process.poll() is not None

    def execute(self, command: str, timeout: float = 60.0) -> tuple[int, str]:
        """Run a shell command inside; status and output. Raises `GuestError` when the container has ended."""
        done = subprocess.run(
            ["nsenter", f"--target={self._first()}", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup",
             "--root", "--wd", "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin", "/bin/sh", "-c", command],
            capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def succeed(self, command: str, timeout: float = 60.0) -> str:
        """The same for a command that must succeed; its output. Raises `GuestError`."""
        status, output = self.execute(command, timeout)
        if status:
            raise GuestError(f"{command!r} ended with {status} in the container: {output[-1000:]}")
        return output

    def wait_until_succeeds(self, command: str, timeout: float = 180.0) -> None:
        """Try until the command succeeds. Raises `GuestTimeout`, `GuestError`."""
        end = time.monotonic() + timeout
        while True:
            try:
                if self.execute(command)[0] == 0:
                    return
            except GuestError:
                if self._process.poll() is not None:
                    raise
            if time.monotonic() > end:
                raise GuestTimeout(f"{command!r} did not succeed within {timeout:.0f} s: {self.console()[-1500:]}")
            time.sleep(0.2)

    def wait_until_ended(self, timeout: float = 300.0) -> None:
        """Wait for the reboot. Raises `GuestTimeout`."""
        end = time.monotonic() + timeout
        while not self.ended:
            if time.monotonic() > end:
                raise GuestTimeout(f"The container did not end within {timeout:.0f} s: {self.console()[-1500:]}")
            time.sleep(0.2)

    def _first(self) -> str:
        """The first process inside, as it is called outside. Raises `GuestError`."""
        # The shells have become unshare, whose only child is the container's first process.
        parent, process, name = self._process.pid, "", ""
        with contextlib.suppress(OSError, IndexError):
            process = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
            name = Path(f"/proc/{process}/comm").read_text().strip()
        if name != "systemd":
            log = (self._work / "log").read_text()[-800:] if self._work.exists() else ""
            raise GuestError(f"The container's systemd does not run (any more): {log}")
        return process
