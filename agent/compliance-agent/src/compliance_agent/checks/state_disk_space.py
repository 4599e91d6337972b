"""The state disk is a disk of its own, can be written, and has room."""

from __future__ import annotations

import os

from compliance_agent.checks import _disk
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

VOLATILE = frozenset({"tmpfs", "ramfs", "overlay", "squashfs", "erofs"})


class StateDiskSpace(Check):
    """Where evidence, identity and logs are kept."""

    id = "state-disk-space"
    title = "The state disk has room"
    reads = "The mount table, and free space and inodes of the state disk"
    citations = (hipaa("164.312(b)", PARTIAL), soc2("A1.1", PARTIAL))
    does_not_prove = "That the disk is healthy, or that what is on it is backed up."
    remedy = "Call the provider: something writes more than it should. Do not delete evidence by hand."

    def run(self, host: Host) -> Finding:
        """Mounted, writable, free bytes and free inodes."""
        inputs = Inputs(host)
        settings = host.config.checks
        point = settings.state_mount_point
        mount = _disk.mounts(inputs).get(point)
        if mount is None or mount.filesystem in VOLATILE:
            return inputs.failed(
                f"{point} is not on the state disk: evidence and settings are lost when the box is switched off.",
                {"file system": mount.filesystem if mount else "not mounted"},
            )
        facts = {"device": mount.source, "file system": mount.filesystem}
        if "ro" in mount.options:
            return inputs.failed(f"The state disk is read-only: {mount.source} has reported errors.", facts)
        free, inodes, total = _free(inputs, point)
        facts |= {"size MiB": f"{total >> 20}", "free %": f"{free:.1f}", "free inodes %": f"{inodes:.1f}"}
        if min(free, inodes) < settings.state_free_percent:
            what = "space" if free <= inodes else "room for files"
            return inputs.failed(
                f"The state disk has {min(free, inodes):.1f} % of its {what} left; {settings.state_free_percent:g} % "
                "is the least.",
                facts,
            )
        return inputs.passed(f"The state disk has {free:.0f} % of {total >> 20} MiB free.", facts)


def _free(inputs: Inputs, point: str) -> tuple[float, float, int]:
    """Free space and free inodes in percent, and the size in bytes."""
    try:
        sizes = os.statvfs(inputs.host.path(point))
    except OSError as error:
        raise CheckError(f"{point}: its size cannot be read: {error.strerror or error}", point) from error
    inputs.note(f"statvfs {point}", repr(sizes))
    if not sizes.f_blocks:
        raise CheckError(f"{point} says it has no size at all", point)
    # Some file systems make inodes as they go and report none: there is nothing to run out of.
    inodes = 100.0 * sizes.f_favail / sizes.f_files if sizes.f_files else 100.0
    return 100.0 * sizes.f_bavail / sizes.f_blocks, inodes, sizes.f_blocks * sizes.f_frsize
