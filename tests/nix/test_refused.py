"""What the modules say to somebody whose configuration they refuse."""

from __future__ import annotations

import pytest

REFUSALS = {
    "a version the updater could not order": "appliance.identity.version",
    "a version too long for a partition label": "appliance.identity.version",
    "a repository without whose signatures count": "appliance.update.trustedRoot",
    "half a maintenance window": "window.end",
    "the updater on a host without an image": "appliance.identity.enable",
    "a gate that nothing counts for": "bootCounting.enable",
    "generations that nothing counts": "bootCounting.enable",
    "generations without a way back": "configurationLimit",
    "an image that keeps generations": "appliance.update.enable",
    "half a signature": "signed.uki",
    "a state that the next update locks": "appliance.secureBoot.pcrPublicKey",
    "a state bound to what every update changes": "encryptState.pcrs",
    "a fleet server in the clear": "services.central-command.tls",
    "a certificate without its key": "tls.keyFile",
    "announcements let in through a firewall that is not nftables": "networking.nftables.enable",
}
"""The configuration, and the option its refusal has to name."""


@pytest.mark.parametrize("configuration", REFUSALS)
def test_a_refusal_names_the_option_to_change(refused: dict[str, list[str]], configuration: str) -> None:
    said = [sentence for sentence in refused[configuration] if REFUSALS[configuration] in sentence]
    assert said, refused[configuration]


def test_every_refused_configuration_is_looked_at(refused: dict[str, list[str]]) -> None:
    assert set(refused) == set(REFUSALS)
