"""The state partition takes writes and gives them back."""

from __future__ import annotations

import os
import tempfile

from appliance_update.config import Config
from appliance_update.host import Host


def check(config: Config, host: Host) -> str | None:
    """One small file, flushed, read and removed."""
    gate = config.gate
    if not gate.state_directory:
        return None
    content = os.urandom(512)
    try:
        with tempfile.NamedTemporaryFile(dir=host.path(gate.state_directory), prefix=".boot-health-") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            if file.read() != content:
                return f"{gate.state_directory} gives back something else than was written"
    except OSError as error:
        return f"{gate.state_directory} cannot be written: {error.strerror}"
    return None
