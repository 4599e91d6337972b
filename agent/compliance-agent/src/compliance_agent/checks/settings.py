"""What a site may tell the checks: the `[checks]` table of the configuration.

Every field is optional; its default is what the appliance's image is built for. A check is exempted (`notapplicable`)
by a rule declared here and by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

Percent = Annotated[float, Meta(ge=0, le=100)]
Days = Annotated[float, Meta(ge=0, le=3650)]
Mebibytes = Annotated[int, Meta(ge=0, le=1048576)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]
AbsolutePath = Annotated[str, Meta(pattern="^/", max_length=1024)]
Port = Annotated[str, Meta(pattern="^(tcp|udp)/[0-9]{1,5}$")]
Fingerprint = Annotated[str, Meta(pattern="^SHA256:[A-Za-z0-9+/]{43}$")]


@dataclass(frozen=True)
class CheckSettings:
    """The `[checks]` table."""

    disabled: tuple[Name, ...] = ()
    """Ids of checks this site has decided against; they answer `notselected`, never `pass`."""

    slots: bool = True
    """The system is started from one of two image slots; false on a host that keeps NixOS generations."""
    required_units: tuple[Name, ...] = ("compliance-agent.service", "network-scanner.service", "local-portal.service")
    """Units that must be active, beside there being no failed one."""

    state_mount_point: AbsolutePath = "/var"
    state_free_percent: Percent = 10.0
    """Least free space, and least free inodes, of the state disk in percent."""
    esp_reserve_mib: Mebibytes = 128
    """Least free space of the EFI system partition beyond the largest boot image on it (image/layout.toml)."""
    state_encryption_required: bool = False
    """The site has decided that the state disk is to be encrypted (45 CFR 164.312(a)(2)(iv) is addressable)."""

    clock_max_offset: Annotated[float, Meta(gt=0, le=3600)] = 1.0
    """Largest deviation from the time server, in seconds."""
    clock_max_age: Annotated[float, Meta(ge=60, le=2592000)] = 10800.0
    """Longest time since a time server answered, in seconds."""

    listening: tuple[Port, ...] = ("tcp/80", "tcp/443", "tcp/8081", "udp/68", "udp/546", "udp/5353")
    """Ports it may serve beyond itself: the portal (80 only redirects), the status page, DHCP clients, mDNS."""

    accounts: tuple[Name, ...] = ()
    """Accounts of people on this box. None in the image: nobody needs one."""
    password_accounts: tuple[Name, ...] = ()
    """Of these, the ones that may have a password."""
    administrators: tuple[Name, ...] = ()
    """Of these, the ones that may become root."""
    authorised_keys: tuple[Fingerprint, ...] = ()
    """SSH keys that may be installed, as `SHA256:…` (the fingerprint of `ssh-keygen -lf`)."""
    max_failed_logins: Annotated[int, Meta(ge=0, le=100000)] = 20
    """Most failed logins in 24 hours before they count as an attack."""

    ssh: bool = False
    """Remote login by SSH is part of this appliance."""

    journal_max_mib: Mebibytes = 1024
    """Largest size of the journal on disk."""
    journal_min_days: Days = 7.0
    """The journal reaches back this far before old entries are dropped."""

    lockdown: Literal["integrity", "confidentiality", "none"] = "integrity"
    """Least kernel lockdown; `none` where the kernel's modules are not signed and lockdown would keep them out."""

    certificates: tuple[AbsolutePath, ...] = ()
    """Certificate files (PEM) to watch, beside those the collector reports."""
    certificate_min_days: Days = 14.0
    """Least validity left of a leaf certificate."""
    ca_min_days: Days = 90.0
    """Least validity left of a certificate authority."""

    update_check_max_hours: Annotated[float, Meta(ge=1, le=8760)] = 72.0
    """Longest time since the updater last reached its repository."""
    update_pending_max_days: Days = 7.0
    """Longest time an installed release may wait for its restart."""
    reboot_window_days: Days = 7.0
    """How far back unexpected restarts count."""
