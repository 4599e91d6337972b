"""The system's files are verified on every read."""

from __future__ import annotations

import re

from compliance_agent.checks import _disk
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs
from compliance_agent.checks.base import Check, Finding, Host

COMMAND_LINE = "/proc/cmdline"
ROOT_HASH = re.compile(r"(?:^|\s)(?P<name>roothash|usrhash)=(?P<hash>[0-9a-f]{64,128})(?=\s|$)")
IGNORES = re.compile(r"systemd\.verity=(?:no|0|false|off)\b|\bverity\w*=\S*ignore-corruption")


class VerifiedSystem(Check):
    """dm-verity below `/` or `/usr`, with the root hash that the kernel was started with."""

    id = "verified-system"
    title = "The system's files are verified"
    reads = "The mount table, the dm-verity mapping below / or /usr, and the kernel's command line"
    citations = (hipaa("164.308(a)(5)(ii)(B)", PARTIAL), soc2("CC6.8", PARTIAL), soc2("CC7.1", PARTIAL))
    does_not_prove = (
        "That the verified system is the one its makers signed: that takes Secure Boot. "
        "The state disk (settings, evidence, logs) is not verified this way."
    )
    remedy = "Take the box out of service and have it installed afresh: its system can be altered without a trace."

    def run(self, host: Host) -> Finding:
        """The mapping is there, read-only, and of the hash on the kernel's command line."""
        inputs = Inputs(host)
        system = _disk.verified(inputs)
        command_line = inputs.text(COMMAND_LINE, 1 << 16)
        given = ROOT_HASH.search(command_line)
        if system is None:
            return inputs.failed(
                "The system's files are not verified when they are read: they can be altered unnoticed."
            )
        facts = {
            "verified": system.mount.point,
            "partitions": ", ".join(system.partitions),
            "root hash": given["hash"] if given else "none given",
        }
        if given is None:
            return inputs.failed("The system is verified, but not against a hash the kernel was started with.", facts)
        if IGNORES.search(command_line):
            return inputs.failed("The kernel was told to go on when a file fails its verification.", facts)
        if "rw" in system.mount.options:
            return inputs.failed(f"{system.mount.point} can be written although it is to be verified.", facts)
        return inputs.passed(f"Every read of {system.mount.point} is verified (dm-verity).", facts)
