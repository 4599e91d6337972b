"""The required units are active."""

from __future__ import annotations

import subprocess

from appliance_update.config import Gate
from appliance_update.host import Host

TIMEOUT = 30.0


def check(gate: Gate, host: Host) -> str | None:
    """`systemctl show` for all of them at once; a unit that is not known is not active."""
    if not gate.units:
        return None
    try:
        done = subprocess.run(
            ["systemctl", "show", "--property=Id,ActiveState,SubState,NRestarts", "--", *gate.units],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return f"systemd does not answer: {error}"
    blocks = [
        dict(line.partition("=")[::2] for line in block.splitlines()) for block in done.stdout.split("\n\n") if block
    ]
    states = {block.get("Id", ""): block for block in blocks}
    for unit in gate.units:
        block = states.get(unit)
        if block is None or block.get("ActiveState") != "active":
            state = f"{block.get('ActiveState')}/{block.get('SubState')}" if block else "not known to systemd"
            restarts = f" after {block['NRestarts']} restarts" if block and block.get("NRestarts", "0") != "0" else ""
            return f"{unit} is {state}{restarts}"
    return None
