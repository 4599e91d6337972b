"""Secure Boot and the encrypted state as Nix evaluates them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.nix.files import definition

Host = dict[str, Any]


@pytest.fixture
def secure(evaluated: dict[str, Any]) -> Host:
    host: Host = evaluated["renderedSecure"]
    return host


def test_it_evaluates_without_a_complaint(secure: Host) -> None:
    assert (secure["failedAssertions"], secure["warnings"]) == ([], [])


def test_the_state_is_sealed_to_the_policy_of_a_key_and_not_to_one_image(secure: Host) -> None:
    assert definition(secure["disk"]["device"]["50-state"])["Partition", "Encrypt"] == "tpm2"
    arguments = secure["boot"]["repartArguments"]
    assert "--tpm2-public-key-pcrs=11" in arguments and "--tpm2-pcrs=7" in arguments
    assert [argument for argument in arguments if argument.startswith("--tpm2-public-key=/nix/store/")]
    assert "PCRPKey" in secure["boot"]["uki"]["settings"]["UKI"]


def test_repart_makes_the_state_before_it_is_opened_and_var_is_what_opens(secure: Host) -> None:
    assert "tpm2-device=auto" in secure["boot"]["crypttab"]["state"]
    assert secure["disk"]["fileSystems"]["/var"]["device"] == "/dev/mapper/state"
    assert "systemd-cryptsetup@state.service" in secure["units"]["initrd"]["systemd-repart.service"]["text"]


def test_a_state_that_stays_shut_ends_a_trial_and_waits_for_a_person_otherwise(secure: Host) -> None:
    assert "appliance-state-locked.service" in secure["boot"]["initrdUnits"]
    assert "x-systemd.device-timeout=infinity" in secure["disk"]["fileSystems"]["/var"]["options"]


def test_the_loader_and_its_fallback_are_the_signed_one(secure: Host, t640: Host) -> None:
    for file in ("/EFI/systemd/systemd-bootx64.efi", "/EFI/BOOT/BOOTX64.EFI"):
        assert secure["disk"]["espContents"][file] != t640["disk"]["espContents"][file]


def test_without_the_module_nothing_of_it_is_there(t640: Host) -> None:
    assert t640["boot"]["crypttab"] == {}
    assert "appliance-state-locked.service" not in t640["boot"]["initrdUnits"]
