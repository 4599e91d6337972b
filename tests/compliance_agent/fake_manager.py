"""A service manager on a private bus that knows one method: StartUnit runs the collector's part, or refuses.

Run as a program: BUS-ADDRESS FACTS-FILE. Prints `ready`. Starting a unit other than the collector is refused.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pydbus
from gi.repository import GLib


class Manager:
    """<node><interface name='org.freedesktop.systemd1.Manager'>
    <method name='StartUnit'><arg type='s' direction='in'/><arg type='s' direction='in'/>
    <arg type='o' direction='out'/></method></interface></node>"""

    dbus = __doc__
    facts = Path(sys.argv[2])

    def StartUnit(self, name: str, mode: str) -> str:
        if (name, mode) != ("compliance-agent-collect.service", "replace"):
            raise PermissionError("Interactive authentication required.")
        GLib.timeout_add(300, self._collect)
        return "/org/freedesktop/systemd1/job/1"

    def _collect(self) -> bool:
        self.facts.write_text(f'{{"at": {time.time()}}}')
        return False


if __name__ == "__main__":
    bus = pydbus.connect(sys.argv[1])
    bus.request_name("org.freedesktop.systemd1")
    bus.register_object("/org/freedesktop/systemd1", Manager(), None)
    print("ready", flush=True)
    GLib.MainLoop().run()
