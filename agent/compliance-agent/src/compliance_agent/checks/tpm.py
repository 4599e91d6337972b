"""A TPM 2.0 is there and has measured this boot."""

from __future__ import annotations

from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

TPM = "/sys/class/tpm/tpm0"
BOOT_LOADER, BOOT_IMAGE = 4, 11
"""PCR 4: the boot loader, by the firmware. PCR 11: kernel, initrd and command line, by systemd-stub."""


class Tpm(Check):
    """Reads the registers the kernel shows of the TPM."""

    id = "tpm"
    title = "A security chip is there and measured the start"
    reads = "/sys/class/tpm/tpm0: version and the registers (PCR) 4 and 11"
    citations = (hipaa("164.310(c)", PARTIAL), soc2("CC6.1", PARTIAL))
    does_not_prove = (
        "That the measurements are the right ones: nobody compares them; and nothing about the chip's own flaws."
    )
    remedy = "Turn on the TPM (fTPM) in the firmware's setup, and save."

    def run(self, host: Host) -> Finding:
        """Version 2, a SHA-256 bank, and registers that are no longer blank."""
        inputs = Inputs(host)
        version = inputs.text_if_there(f"{TPM}/tpm_version_major", 4096)
        if version is None:
            if "tpm" in inputs.names("/sys/class"):
                return inputs.failed("There is no TPM, or it is turned off in the firmware's setup.")
            raise CheckError(
                "/sys/class/tpm is not there: this kernel cannot tell whether there is a TPM", "/sys/class/tpm"
            )
        if version.strip() != "2":
            return inputs.failed(f"The TPM is of version {version.strip()[:20]!r}; 2 is needed.")
        registers = {number: _register(inputs, number) for number in (BOOT_LOADER, BOOT_IMAGE)}
        facts = {f"PCR {number}": value for number, value in registers.items()}
        blank = [str(number) for number, value in registers.items() if set(value) <= {"0"} or set(value) <= {"f"}]
        if blank:
            return inputs.failed(
                f"There is a TPM 2.0, but it did not measure the start (PCR {' and '.join(blank)} blank).", facts
            )
        return inputs.passed("A TPM 2.0 is there and measured the boot loader and the boot image.", facts)


def _register(inputs: Inputs, number: int) -> str:
    path = f"{TPM}/pcr-sha256/{number}"
    value = inputs.text(path, 4096).strip().lower()
    if len(value) != 64 or any(digit not in "0123456789abcdef" for digit in value):
        raise CheckError(f"{path} holds no SHA-256 value", path)
    return value
