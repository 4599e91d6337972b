"""The tool root: mkosi and systemd-repart from Debian trixie in a directory, entered with pivot_root.

Debian 12's own are too old for the image (mkosi 14, systemd 252), and mixing suites on a developer's machine would
be a poor gift. mkosi needs pivot_root rather than chroot. The cache directory appears inside as `/cache`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from t640.apt import STABLE, Mirror, system_mirror
from t640.errors import Missing, RigError
from t640.paths import cache_directory, locked

INSIDE = Path("/cache")
"""Where the cache directory appears inside the tool root."""

PACKAGES = (
    "mkosi", "systemd", "systemd-repart", "systemd-boot-efi", "systemd-boot-tools", "systemd-boot", "systemd-ukify",
    "systemd-container", "udev", "python3-pefile", "apt", "debian-archive-keyring", "erofs-utils", "mtools",
    "dosfstools", "e2fsprogs", "cpio", "zstd", "xz-utils", "kmod", "openssl", "gpgv", "cryptsetup-bin", "fdisk",
    "binutils",
)  # fmt: skip

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_ENTER = r"""
set -e
root=$1 cache=$2; shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mkdir -p "$root/cache" "$root/.old"
mount --bind "$cache" "$root/cache"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for file in resolv.conf hosts; do
    [ -e "/etc/$file" ] || continue
    touch "$root/etc/$file"; mount --bind "$(readlink -f "/etc/$file")" "$root/etc/$file"
done
cd "$root"
pivot_root . .old
cd /cache
umount -l /.old
exec "$@"
"""


def key(mirror: Mirror) -> str:
    """What the tool root's content depends on, in twelve hex digits."""
    text = "\n".join((STABLE, *PACKAGES, *mirror.settings))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def ensure() -> Path:
    """The tool root's directory, built first if it is not in the cache (half a minute). Raises `RigError`."""
    mirror = system_mirror()
    root = cache_directory() / f"toolroot-{key(mirror)}"
    with locked("toolroot"):
        if not (root / "usr/bin/mkosi").exists():
            _build(root, mirror)
    return root


def _build(root: Path, mirror: Mirror) -> None:
    if shutil.which("mmdebstrap") is None:
        raise Missing("mmdebstrap is not installed: apt-get install mmdebstrap.")
    if os.geteuid() != 0:
        raise Missing("Building the tool root needs root.")
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    options = [f"--aptopt={line}" for line in mirror.settings]
    command = ["mmdebstrap", "--variant=minbase", "--mode=root", "--include=" + ",".join(PACKAGES), *options,
               STABLE, str(partial), mirror.uri]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        raise RigError(f"mmdebstrap could not make the tool root from {mirror.uri}:\n{done.stderr[-2000:]}")
    for old in root.parent.glob("toolroot-*"):
        if old.is_dir() and old != partial:
            shutil.rmtree(old)
    partial.rename(root)


def inside(path: Path) -> Path:
    """How a path in the cache directory is called inside the tool root."""
    return INSIDE / path.resolve().relative_to(cache_directory())


def command(root: Path, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` inside the tool root."""
    shell = ["sh", "-c", _ENTER, "enter", str(root), str(cache_directory()), *argv]
    return ["unshare", "--mount", "--propagation", "private", *shell]


def run(
    argv: Sequence[str],
    *,
    root: Path | None = None,
    log: Path | None = None,
    detail: Callable[[str], None] | None = None,
) -> str:
    """Run a program in the tool root and return what it printed. Raises `RigError` with the end of its output.

    `detail` is told each line while the program runs.
    """
    whole = command(root or ensure(), argv)
    environment = {"PATH": "/usr/sbin:/usr/bin", "HOME": "/root", "LANG": "C.UTF-8", "TMPDIR": "/tmp"}
    environment |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    lines = []
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *whole],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if detail is not None and line.strip():
                detail(_ESCAPES.sub("", line).strip()[:70])
    output = "".join(lines)
    if log is not None:
        log.write_text(output)
    if process.returncode != 0:
        end = "".join(lines[-25:])
        raise RigError(f"{' '.join(argv[:3])} … failed with {process.returncode} in the tool root:\n{end}")
    return output
