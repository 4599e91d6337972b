"""The clinic's ground truth, and how an inventory is judged by it."""

from __future__ import annotations

import re

import pytest

from appliance_protocol.inventory import DeviceClass
from t640.clinic.services import SERVICES
from t640.clinic.truth import ALL, HOSTS, judge


def test_a_perfect_inventory_scores_one_everywhere() -> None:
    scores = judge({host.mac: host.device_class for host in ALL})
    assert all(score.precision == score.recall == 1.0 for score in scores.values())


def test_a_device_taken_for_another_costs_one_class_recall_and_the_other_precision() -> None:
    inventory = {host.mac: host.device_class for host in ALL}
    printer = next(host for host in HOSTS if host.device_class == "printer")
    inventory[printer.mac] = "medical"
    scores = judge(inventory)
    assert scores["printer"].recall == 0.0
    assert scores["printer"].precision is None
    assert scores["medical"].precision == pytest.approx(2 / 3)


def test_a_device_that_nobody_put_there_costs_precision() -> None:
    scores = judge({host.mac: host.device_class for host in ALL} | {"02:00:00:00:00:01": "camera"})
    assert scores["camera"].precision == 0.5


def test_the_clinic_has_every_class_of_the_inventory() -> None:
    assert {host.device_class for host in ALL} == {item.value for item in DeviceClass}


def test_names_and_addresses_are_given_once() -> None:
    for what in ("name", "mac"):
        values = [getattr(host, what) for host in ALL]
        assert len(values) == len(set(values))
    addresses = [host.address for host in ALL if host.address]
    assert len(addresses) == len(set(addresses))
    assert all(re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", host.mac) for host in ALL)


def test_printers_and_medical_devices_must_never_get_a_payload() -> None:
    assert all(host.silent == (host.device_class in ("printer", "medical")) for host in HOSTS)


def test_every_service_named_exists() -> None:
    assert {name for host in HOSTS for name in host.services} <= set(SERVICES)
