"""What could be booted instead of what runs, and how the loader is made to try it once.

Nothing here depends on firmware variables, nor on the updater, which may be what turned bad.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol

from appliance_update import quarantine
from appliance_update.device import Device, SlotState, inspect
from appliance_update.entries import Entry, aside_name, counted_name, of_version, rename
from appliance_update.host import Host
from appliance_update.layout import Layout
from appliance_update.snapshots import SnapshotError, Snapshots
from appliance_update.store import Store
from appliance_update.uki import UkiError, argument, command_line


class NoStandby(Exception):
    """Why nothing else can be booted."""


class Standby(Protocol):
    """The ways of one kind of host. Systems go by names: a version in slots, a store path of a generation."""

    def running(self) -> str:
        """The name of what runs. Raises `OSError` when it cannot be told."""

    def label(self, name: str) -> str:
        """The same for people."""

    def other(self) -> str:
        """What would be tried. Raises `NoStandby`, `DeviceError`, `OSError`."""

    def arm(self, other: str) -> None:
        """Have the loader boot it next, once, and come back by itself should it fail; done again, it does no harm.

        The databases are snapshotted first: whoever boots finds its own. Raises `DeviceError`, `OSError`.
        """


@dataclass(frozen=True)
class SlotStandby:
    """The other slot: its boot entry becomes a counted one, ours a spent one."""

    host: Host
    layout: Layout
    store: Store
    snapshots: Snapshots

    def running(self) -> str:
        """See `Standby.running`."""
        return self.host.image_version

    def label(self, name: str) -> str:
        """See `Standby.label`."""
        return name

    def other(self) -> str:
        """See `Standby.other`."""
        device = inspect(self.host, self.layout)
        standby, own = device.standby, of_version(device.entries, device.version)
        others = of_version(device.entries, standby.version)
        if standby.state is not SlotState.STANDBY or len(others) != 1 or len(own) != 1:
            raise NoStandby("there is no other version to boot")
        if not (others[0].blessed or (others[0].left, others[0].done) == (1, 0)):
            raise NoStandby(f"{standby.version} has not proved itself")
        held = quarantine.held(self.store.quarantine_path, self.store.now())
        if standby.version in held:
            raise NoStandby(f"{standby.version} failed here too: {held[standby.version].reason}")
        if not self._pairs(others[0], device):
            raise NoStandby(f"the boot entry of {standby.version} does not fit its slot")
        return standby.version

    def arm(self, other: str) -> None:
        """See `Standby.arm`."""
        device = inspect(self.host, self.layout)
        with contextlib.suppress(SnapshotError):  # then what the other one leaves is read on
            self.snapshots.take(device.version)
        (standby,), (own,) = (of_version(device.entries, each) for each in (other, device.version))
        if standby.blessed:
            rename(standby, counted_name(self.layout, other, 1, 0))
        if not own.spent:
            rename(own, aside_name(self.layout, device.version))

    def _pairs(self, entry: Entry, device: Device) -> bool:
        wanted = device.standby.data.uuid.hex + device.standby.verity.uuid.hex
        try:
            found = argument(command_line(entry.path), self.layout.flavour[device.flavour].root_hash_argument)
        except UkiError:
            return False
        return found == wanted
