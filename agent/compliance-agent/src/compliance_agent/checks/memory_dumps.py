"""What programs hold in memory does not end up on the disk in the clear."""

from __future__ import annotations

from compliance_agent.checks import _disk
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, some
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

SWAPS, CORE_PATTERN = "/proc/swaps", "/proc/sys/kernel/core_pattern"
HEADING = "Filename"
NOWHERE = ("|/bin/false", "|/usr/bin/false", "|/bin/true", "|/usr/bin/true", "/dev/null")


class MemoryDumps(Check):
    """Swap and core dumps: two ways in which keys and patient data leave memory unnoticed."""

    id = "memory-dumps"
    title = "Memory is not written to the disk"
    reads = "/proc/swaps, /proc/sys/kernel/core_pattern, and coredump.conf where systemd-coredump is in use"
    citations = (hipaa("164.312(a)(2)(iv)", PARTIAL), soc2("CC6.1", PARTIAL))
    does_not_prove = "That no program writes what it holds into a file of its own."
    remedy = "Call the provider: swap or core dumps were turned on by a release or by hand."

    def run(self, host: Host) -> Finding:
        """No swap but in compressed memory or encrypted, and core dumps go nowhere."""
        inputs = Inputs(host)
        swaps = _swaps(inputs)
        plain = [name for name in swaps if not _harmless(inputs, name)]
        pattern = inputs.text(CORE_PATTERN, 4096).strip()
        facts = {"swap": ", ".join(swaps) or "none", "core dumps": pattern or "none"}
        if plain:
            return inputs.failed(f"Memory is swapped to the disk without encryption: {some(plain)}.", facts)
        if not _goes_nowhere(inputs, pattern):
            return inputs.failed("When a program crashes, its memory is written to the disk.", facts)
        return inputs.passed("No memory is written to the disk: no open swap, no core dumps.", facts)


def _swaps(inputs: Inputs) -> list[str]:
    lines = inputs.text(SWAPS).splitlines()
    if not lines or not lines[0].startswith(HEADING):
        raise CheckError(f"{SWAPS} has no heading: it is not the kernel's table", SWAPS)
    if any(not line.startswith("/") for line in lines[1:]):
        raise CheckError(f"{SWAPS} has a line that cannot be read", SWAPS)
    return [line.split()[0] for line in lines[1:]]


def _harmless(inputs: Inputs, name: str) -> bool:
    """Compressed memory, or an encrypted mapping."""
    device = name.rsplit("/", 1)[-1]
    if device.startswith("zram"):
        # zram can have a disk to fall back to, and then it is swap on a disk.
        backing = inputs.text_if_there(f"/sys/block/{device}/backing_dev", 4096)
        return backing is None or backing.strip() == "none"
    uuid = inputs.text_if_there(f"/sys/block/{device}/dm/uuid", 4096) or ""
    return uuid.startswith((_disk.LUKS, "CRYPT-PLAIN"))


def _goes_nowhere(inputs: Inputs, pattern: str) -> bool:
    """Whether a crash leaves no image of memory: no pattern, or systemd-coredump told to store nothing."""
    if not pattern:
        raise CheckError(f"{CORE_PATTERN} is empty: this check cannot tell what becomes of core dumps", CORE_PATTERN)
    if pattern.startswith(NOWHERE):
        return True
    if "systemd-coredump" not in pattern:
        return False
    for path in ("/etc/systemd/coredump.conf", "/usr/lib/systemd/coredump.conf"):
        text = inputs.text_if_there(path)
        if text is not None:
            return "storage=none" in [line.strip().lower() for line in text.splitlines()]
    return False
