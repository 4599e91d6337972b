"""What goes wrong in the rig, told so that the reader knows what to do next."""

from __future__ import annotations


class RigError(Exception):
    """The rig cannot go on; the message says what happened, to what, and what helps."""


class Missing(RigError):
    """A program, package or file that the rig needs is not there."""


class GuestError(RigError):
    """The appliance in the machine did not do what was asked; the message ends with the console's last lines."""


class GuestTimeout(GuestError):
    """The appliance did not get there in time."""
