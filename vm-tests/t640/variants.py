"""Bad releases: the good image with one fault put into our own packages, as a real release had it or may have it.

A fault is a replacement in a file of the build tree, files more, or files less; nothing of it is in the repository's
sources. A replacement whose place is gone raises, so that a fault never vanishes quietly with a change of the sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from t640.errors import RigError
from t640.wheels import DIST_PACKAGES

_AGENT = "compliance_agent"
_UPDATER = "appliance_update"


@dataclass(frozen=True)
class Patch:
    """`old` becomes `new`, once, in a module given by its path below dist-packages."""

    module: str
    old: str
    new: str


@dataclass(frozen=True)
class Variant:
    """One fault. `files` are written (path → text), `removed` taken out of the finished image (patterns of mkosi)."""

    title: str
    patches: tuple[Patch, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()


_NO_START = "[Service]\nExecStart=\nExecStart=/bin/false\n"
_START = '''        """Drop the request, unless the box runs that version already."""
'''

VARIANTS: Mapping[str, Variant] = {
    "good": Variant("no fault"),
    "panic": Variant("the kernel finds no init and panics (by its command line, see image.py)"),
    "bad-health": Variant(
        "the portal cannot start",
        files={
            "usr/lib/systemd/system/local-portal.service.d/90-broken.conf": _NO_START,
        },
    ),
    "no-state": Variant(
        "the state cannot be mounted",
        files={
            "usr/lib/systemd/system/var.mount.d/90-broken.conf": "[Mount]\nWhat=/dev/disk/by-partlabel/nothing\n",
        },
    ),
    # The pilot's agent 1.0.49: handling the order that carries its fix ends the process. Nothing around the handler
    # caught it there; here the agent's own runner would, hence the exit after the traceback. It is never given up on.
    "pilot-agent": Variant(
        "the agent's order handler raises on every update order, the unit restarts, and it raises again",
        patches=(
            Patch(
                f"{_AGENT}/orders/update.py",
                _START,
                f"""{_START}        try:
            services.config.mcp_api_key_file
        except AttributeError:
            import traceback
            traceback.print_exc()
            os._exit(1)
""",
            ),
            Patch(
                f"{_AGENT}/orders/update.py", "    deadline = 20.0\n", "    deadline = 20.0\n    max_attempts = 10**9\n"
            ),
        ),
    ),
    "missing-key": Variant(
        "the agent's order handler reads a key that this version's configuration lacks",
        patches=(
            Patch(
                f"{_AGENT}/orders/update.py",
                _START,
                f"{_START}        channel = services.config.paths.update_channel\n",
            ),
        ),
    ),
    "blind-updater": Variant(
        "the updater refuses metadata with a field it does not know",
        patches=(
            Patch(
                f"{_UPDATER}/release.py",
                "    if not isinstance(custom, dict):\n",
                "    if isinstance(custom, dict) and set(custom) - set(WrittenRelease.__annotations__):\n"
                '        raise Unsuitable("unknown fields")\n'
                "    if not isinstance(custom, dict):\n",
            ),
        ),
    ),
    "no-python": Variant("Python does not start: its interpreter is gone", removed=("/usr/bin/python3*",)),
    # An hour as released. A test shortens it by a file that it puts into the image, and says so.
    "late-death": Variant(
        "the gate passes, and the agent dies an hour after the boot and at every start from then on",
        patches=(
            Patch(
                f"{_AGENT}/main.py",
                "    await agent.run()\n",
                """    import time
    hour = Path("/etc/late-death-seconds")
    lifetime = float(hour.read_text()) if hour.exists() else 3600.0
    left = max(0.0, lifetime - time.clock_gettime(time.CLOCK_BOOTTIME))
    asyncio.get_running_loop().call_later(left, os._exit, 1)
    await agent.run()
""",
            ),
        ),
    ),
}
LATE_DEATH_FILE = "etc/late-death-seconds"


def get(name: str) -> Variant:
    """A variant by name. Raises `RigError` for one that does not exist."""
    if name not in VARIANTS:
        raise RigError(f"There is no image variant {name!r}; choose one of {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def apply(tree: Path, name: str) -> None:
    """Put the fault into a build tree. Raises `RigError` when a place to patch is not there exactly once."""
    variant = get(name)
    for patch in variant.patches:
        path = tree / DIST_PACKAGES / patch.module
        text = path.read_text()
        if text.count(patch.old) != 1:
            raise RigError(
                f"Variant {name}: the text to replace is {text.count(patch.old)} times in {patch.module}, not once; "
                "the sources have changed, adapt variants.py."
            )
        path.write_text(text.replace(patch.old, patch.new))
    for file, content in variant.files.items():
        target = tree / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
