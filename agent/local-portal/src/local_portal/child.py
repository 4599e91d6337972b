"""Work in a short-lived process of its own: the libraries and the memory it takes end with it."""

from __future__ import annotations

import os
import subprocess
import sys

TIMEOUT = 60.0


class ChildError(RuntimeError):
    """The child did not come about, ran too long or failed; the message is the last thing it said."""


def run(module: str, document: bytes) -> bytes:
    """What `python -m module` makes of `document`, by standard input and output. Blocks; raises `ChildError`."""
    # The child gets our module path: under NixOS the bare interpreter would not find this package by itself.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", module], input=document, env=environment, capture_output=True, timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ChildError(str(error)) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ChildError(said[-1] if said else f"it ended with {done.returncode}, without a reason given")
    return done.stdout
