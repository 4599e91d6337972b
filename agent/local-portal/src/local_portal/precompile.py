"""The templates, compiled by a child of the start that takes its leavings with it.

Compiling leaves some 2 MiB of holes between what stays, which no allocator gives back, and the service lives for
months with what it has at its start. Forking costs no second start of Python; the certificates, which need other
libraries, are made in a process of their own as well (`authority`).
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from jinja2 import FileSystemBytecodeCache

from local_portal.web import environment, preload

_log = logging.getLogger(__name__)


def precompile(runtime: Path) -> None:
    """Load every template. Call it before the first thread and before a database is open: it forks.

    What the child cannot do, the caller does itself, at the price of the memory. Raises what then goes wrong.
    """
    try:
        runtime.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".templates-", dir=runtime) as folder:
            environment().bytecode_cache = FileSystemBytecodeCache(folder)
            done = _in_child()
            preload()
    except OSError as error:
        _log.warning("%s: the templates are compiled in the service itself: %s", runtime, error)
        done = False
    finally:
        environment().bytecode_cache = None
    if not done:
        preload()
        _rehearse()


def _in_child() -> bool:
    """Compile into the cache, and try what the service itself loads only when it is needed; whether that went well."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    status = 1
    try:
        preload()
        _rehearse()
        status = 0
    finally:
        os._exit(status)


def _rehearse() -> None:
    from local_portal.argon2 import rehearse  # the child's library

    rehearse()
