"""What can go wrong, each kind with its exit status."""

from __future__ import annotations


class FlashError(Exception):
    """The device was written to and is not usable; the message says why and what to do."""

    status = 1


class Declined(FlashError):
    """The person said no; nothing was written."""

    status = 3


class Refused(FlashError):
    """This device must not be written to; nothing was."""

    status = 4


class Unusable(FlashError):
    """The image, its map or the site file cannot be used; nothing was written."""

    status = 5


class Missing(FlashError):
    """A program this one needs is not installed; nothing was written."""

    status = 6
