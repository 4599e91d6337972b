"""Which image the box runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from appliance_protocol.evidence import Release

OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
ROOT_HASH = re.compile(r"^(?:roothash|usrhash)=([0-9a-f]{64})$")


def read_release(root: Path = Path("/")) -> Release:
    """Image id and version by os-release(5), and the verity root hash the kernel was started with.

    A field that cannot be read is empty: an unknown release is never taken for a known one.
    """
    fields = _os_release(root)
    return Release(fields.get("IMAGE_ID", ""), fields.get("IMAGE_VERSION", ""), root_hash(root) or "")


def root_hash(root: Path = Path("/")) -> str | None:
    """The verity root hash on the kernel's command line (`roothash=` or `usrhash=`); None when there is none."""
    try:
        words = (root / "proc/cmdline").read_text(errors="replace").split()
    except OSError:
        return None
    for word in words:
        match = ROOT_HASH.match(word)
        if match:
            return match.group(1)
    return None


def _os_release(root: Path) -> dict[str, str]:
    for name in OS_RELEASE:
        try:
            text = (root / name).read_text(errors="replace")[:65536]
        except OSError:
            continue
        return dict(filter(None, map(_assignment, text.splitlines())))
    return {}


def _assignment(line: str) -> tuple[str, str] | None:
    name, equals, value = line.partition("=")
    if not equals or line.startswith("#"):
        return None
    try:
        return name.strip(), "".join(shlex.split(value))
    except ValueError:
        return None
