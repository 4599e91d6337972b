"""Stand-ins for systemd and timesyncd on a bus of their own. A program: run it with the bus's address.

They answer with the signatures of the real services (org.freedesktop.systemd1(5) and its fellows); what they answer is
read from a JSON file, so that a test can have a unit fail. The real services are asked in the virtual T640's tests.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pydbus
from gi.repository import GLib

ANSWERS = Path(sys.argv[2])


def answers() -> dict[str, Any]:
    """What the services are to say now."""
    return json.loads(ANSWERS.read_text())


class Manager:
    """
    <node><interface name="org.freedesktop.systemd1.Manager">
      <method name="ListUnitsFiltered">
        <arg type="as" direction="in"/><arg type="a(ssssssouso)" direction="out"/>
      </method>
      <method name="ListUnitsByPatterns">
        <arg type="as" direction="in"/><arg type="as" direction="in"/><arg type="a(ssssssouso)" direction="out"/>
      </method>
      <property name="RuntimeWatchdogUSec" type="t" access="read"/>
    </interface></node>
    """

    def ListUnitsFiltered(self, states: list[str]) -> list[tuple[Any, ...]]:
        return [tuple(unit) for unit in answers()["units"] if {unit[3], unit[4]} & set(states)]

    def ListUnitsByPatterns(self, states: list[str], patterns: list[str]) -> list[tuple[Any, ...]]:
        return [tuple(unit) for unit in answers()["units"] if unit[0] in patterns]

    @property
    def RuntimeWatchdogUSec(self) -> int:
        return answers()["watchdog"]


class TimeSync:
    """
    <node><interface name="org.freedesktop.timesync1.Manager">
      <property name="NTPMessage" type="(uuuuittayttttbtt)" access="read"/>
    </interface></node>
    """

    @property
    def NTPMessage(self) -> tuple[Any, ...]:
        return tuple(answers()["ntp"])


bus = pydbus.connect(sys.argv[1])
published = [
    bus.publish("org.freedesktop.systemd1", ("/org/freedesktop/systemd1", Manager())),
    bus.publish("org.freedesktop.timesync1", ("/org/freedesktop/timesync1", TimeSync())),
]
print("ready", flush=True)
GLib.MainLoop().run()
