"""What a site may tell the checks: the `[checks]` table of the configuration.

Every field is optional; its default is what the appliance's image is built for.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckSettings:
    """The `[checks]` table."""

    disabled: tuple[str, ...] = ()
    """Ids of checks this site has decided against; they answer `notselected`, never `pass`."""
