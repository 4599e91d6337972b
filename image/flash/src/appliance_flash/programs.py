"""The programs this one calls: bmaptool, zstd, mtools and util-linux's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from appliance_flash.errors import Missing

PACKAGES = {
    "bmaptool": "bmap-tools (Debian 12) or bmaptool (newer)",
    "zstd": "zstd",
    "mcopy": "mtools",
    "mmd": "mtools",
    "mdel": "mtools",
    "mdir": "mtools",
    "sfdisk": "fdisk",
    "umount": "mount",
    "wipefs": "util-linux",
}


def find(program: str) -> str:
    """The program's path. Raises `Missing` with the Debian package that has it."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Missing(f"{program} is not installed. On Debian: apt-get install {PACKAGES[program]}.")
    return path


def run(arguments: Sequence[str], *, text: bytes = b"", timeout: float = 120) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return what it said. Raises `Missing` and `subprocess.TimeoutExpired`."""
    return subprocess.run(
        [find(arguments[0]), *arguments[1:]],
        input=text,
        capture_output=True,
        check=False,
        timeout=timeout,
        # mtools asks before it overwrites, unless told not to look too closely.
        env=os.environ | {"LC_ALL": "C", "MTOOLS_SKIP_CHECK": "1"},
    )
