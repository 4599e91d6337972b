"""What a site may tell the checks: the `[checks]` table of the configuration.

Every field is optional; its default is what the appliance's image is built for. A check is exempted (`notapplicable`)
by a rule declared here and by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckSettings:
    """The `[checks]` table."""

    disabled: tuple[str, ...] = ()
    """Ids of checks this site has decided against; they answer `notselected`, never `pass`."""

    slots: bool = True
    """The system is started from one of two image slots; false on a host that keeps NixOS generations."""
    required_units: tuple[str, ...] = (
        "compliance-agent.service",
        "network-scanner.service",
        "local-portal.service",
    )
    """Units that must be active, beside there being no failed one."""

    state_mount_point: str = "/var"
    state_free_percent: float = 10.0
    """Least free space, and least free inodes, of the state disk in percent."""
    esp_reserve_mib: int = 128
    """Least free space of the EFI system partition beyond the largest boot image on it (image/layout.toml)."""
    state_encryption_required: bool = False
    """The site has decided that the state disk is to be encrypted (45 CFR 164.312(a)(2)(iv) is addressable)."""

    clock_max_offset: float = 1.0
    """Largest deviation from the time server, in seconds."""
    clock_max_age: float = 10800.0
    """Longest time since a time server answered, in seconds."""

    listening: tuple[str, ...] = (
        "tcp/443",
        "udp/68",
        "udp/546",
        "udp/1900",
        "udp/3702",
        "udp/5353",
    )
    """Ports the appliance may serve beyond itself: the portal, DHCP clients, discovery (SSDP, WS-Discovery, mDNS)."""

    accounts: tuple[str, ...] = ()
    """Accounts of people on this box. None in the image: nobody needs one."""
    password_accounts: tuple[str, ...] = ()
    """Of these, the ones that may have a password."""
    administrators: tuple[str, ...] = ()
    """Of these, the ones that may become root."""
    authorised_keys: tuple[str, ...] = ()
    """SSH keys that may be installed, as `SHA256:…` (the fingerprint of `ssh-keygen -lf`)."""
    max_failed_logins: int = 20
    """Most failed logins in 24 hours before they count as an attack."""

    ssh: bool = False
    """Remote login by SSH is part of this appliance."""

    journal_max_mib: int = 1024
    """Largest size of the journal on disk."""
    journal_min_days: float = 7.0
    """The journal reaches back this far before old entries are dropped."""

    lockdown: str = "integrity"
    """Least kernel lockdown: `integrity`, `confidentiality`, or `none` where the kernel's modules are not signed."""

    certificates: tuple[str, ...] = ()
    """Certificate files (PEM) to watch, beside those the collector reports."""
    certificate_min_days: float = 14.0
    """Least validity left of a leaf certificate."""
    ca_min_days: float = 90.0
    """Least validity left of a certificate authority."""

    update_check_max_hours: float = 72.0
    """Longest time since the updater last reached its repository."""
    update_pending_max_days: float = 7.0
    """Longest time an installed release may wait for its restart."""
    reboot_window_days: float = 7.0
    """How far back unexpected restarts count."""
