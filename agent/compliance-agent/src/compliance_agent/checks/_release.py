"""Which release the running system says it is."""

from __future__ import annotations

from dataclasses import dataclass

from compliance_agent.checks._inputs import Inputs, assignments
from compliance_agent.errors import CheckError

OS_RELEASE = "/etc/os-release"


@dataclass(frozen=True)
class RunningRelease:
    """IMAGE_ID and IMAGE_VERSION of os-release(5)."""

    id: str
    version: str


def running(inputs: Inputs) -> RunningRelease:
    """The running release. Raises `CheckError` when os-release does not name one."""
    fields = assignments(inputs.text(OS_RELEASE, 1 << 16))
    image_id, version = fields.get("IMAGE_ID", ""), fields.get("IMAGE_VERSION", "")
    if not image_id or not version:
        raise CheckError(f"{OS_RELEASE} does not say which release this is (IMAGE_ID, IMAGE_VERSION)", OS_RELEASE)
    return RunningRelease(image_id, version)
