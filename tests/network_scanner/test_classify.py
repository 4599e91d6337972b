"""What a device is taken for, and why; anything that may be fragile is treated as if it were."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance_protocol.inventory import DeviceClass
from network_scanner.classify import MAX_REASONS, RuleError, classify, read_rules, shipped_rules
from network_scanner.facts import Fact, FactKind
from network_scanner.oui import VendorTable

CASES: list[tuple[DeviceClass, list[tuple[FactKind, str]]]] = [
    (DeviceClass.PRINTER, [(FactKind.MDNS_SERVICE, "_pdl-datastream._tcp"), (FactKind.PORT, "80/tcp")]),
    (DeviceClass.PRINTER, [(FactKind.PORT, "631/tcp"), (FactKind.VENDOR, "Brother industries, LTD.")]),
    (DeviceClass.PRINTER, [(FactKind.WSD_TYPE, "printdevicetype")]),
    (DeviceClass.PRINTER, [(FactKind.DHCP_VENDOR, "Hewlett-Packard JetDirect"), (FactKind.VENDOR, "Hewlett Packard")]),
    (DeviceClass.MEDICAL, [(FactKind.PORT, "11112/tcp")]),
    (DeviceClass.MEDICAL, [(FactKind.PORT, "2575/tcp"), (FactKind.VENDOR, "Dell Inc.")]),
    (DeviceClass.MEDICAL, [(FactKind.VENDOR, "Draeger Medical Systems, Inc.")]),
    (DeviceClass.MEDICAL, [(FactKind.WSD_TYPE, "medicaldevice")]),
    (DeviceClass.MEDICAL, [(FactKind.MDNS_SERVICE, "_dicom._tcp"), (FactKind.DHCP_VENDOR, "MSFT 5.0")]),
    (DeviceClass.MEDICAL, [(FactKind.DHCP_NAME, "CT-ROOM2")]),
    (DeviceClass.WORKSTATION, [(FactKind.PORT, "445/tcp"), (FactKind.PORT, "135/tcp")]),
    (DeviceClass.WORKSTATION, [(FactKind.DHCP_VENDOR, "MSFT 5.0"), (FactKind.DHCP_NAME, "FRONTDESK-LT")]),
    (DeviceClass.SERVER, [(FactKind.PORT, "5432/tcp"), (FactKind.PORT, "22/tcp")]),
    (DeviceClass.SERVER, [(FactKind.PORT, "88/tcp"), (FactKind.PORT, "389/tcp"), (FactKind.PORT, "445/tcp")]),
    (DeviceClass.SERVER, [(FactKind.PORT, "22/tcp"), (FactKind.SSH_BANNER, "SSH-2.0-OpenSSH_9.2p1 Debian-2"),
                          (FactKind.VENDOR, "Dell Inc.")]),
    (DeviceClass.NETWORK, [(FactKind.ROLE, "gateway")]),
    (DeviceClass.NETWORK, [(FactKind.VENDOR, "Ubiquiti Inc"), (FactKind.PORT, "22/tcp")]),
    (DeviceClass.CAMERA, [(FactKind.PORT, "554/tcp"), (FactKind.VENDOR, "Axis Communications AB")]),
    (DeviceClass.PHONE, [(FactKind.VENDOR, "YEALINK(XIAMEN) NETWORK TECHNOLOGY CO.,LTD."), (FactKind.PORT, "80/tcp")]),
    (DeviceClass.PHONE, [(FactKind.DHCP_VENDOR, "android-dhcp-14"), (FactKind.RANDOMISED, "yes")]),
    (DeviceClass.IOT, [(FactKind.VENDOR, "Espressif Inc."), (FactKind.MDNS_SERVICE, "_hap._tcp")]),
    (DeviceClass.UNKNOWN, []),
    (DeviceClass.UNKNOWN, [(FactKind.PORT, "22/tcp")]),
    (DeviceClass.UNKNOWN, [(FactKind.VENDOR, "REALTEK SEMICONDUCTOR CORP.")]),
]


@pytest.mark.parametrize(("expected", "facts"), CASES)
def test_typical_devices_are_recognised(expected: DeviceClass, facts: list[tuple[FactKind, str]]) -> None:
    verdict = classify([Fact(kind, value) for kind, value in facts])
    assert verdict.device_class is expected, verdict
    assert verdict.reasons


@pytest.mark.parametrize("mac", ["00:09:fb:00:00:01", "50:a0:30:80:00:01", "70:b3:d5:9d:b0:14", "00:10:5d:00:00:01"])
def test_medical_vendors_of_all_block_sizes_are_fragile_by_their_address_alone(mac: str) -> None:
    vendor = VendorTable.load().vendor(mac)
    verdict = classify([Fact(FactKind.VENDOR, vendor)])
    assert (verdict.device_class, verdict.fragile) == (DeviceClass.MEDICAL, True), vendor


def test_every_reason_names_what_was_seen() -> None:
    verdict = classify([Fact(FactKind.PORT, "104/tcp")])
    assert verdict.reasons == ("listens on a DICOM port: 104/tcp",)


def test_a_suspicion_is_enough_to_be_treated_as_fragile() -> None:
    verdict = classify([Fact(FactKind.PORT, "631/tcp"), Fact(FactKind.PORT, "5432/tcp"), Fact(FactKind.PORT, "88/tcp")])
    assert verdict.device_class is DeviceClass.SERVER
    assert verdict.fragile


facts = st.lists(st.builds(Fact, st.sampled_from(list(FactKind)), st.text(min_size=1, max_size=60)), max_size=30)


@given(facts, facts)
@settings(max_examples=100, deadline=None)
def test_more_evidence_never_makes_a_device_less_fragile(some: list[Fact], more: list[Fact]) -> None:
    if classify(some).fragile:
        assert classify(some + more).fragile


@given(facts)
@settings(max_examples=100, deadline=None)
def test_any_facts_give_a_bounded_verdict(some: list[Fact]) -> None:
    verdict = classify(some)
    assert 0 <= verdict.confidence <= 1
    assert 1 <= len(verdict.reasons) <= MAX_REASONS
    assert verdict == classify(list(reversed(some))) or verdict.device_class is classify(some[::-1]).device_class


def test_every_class_has_rules_and_the_evidence_needs_no_other_class() -> None:
    classes = {rule.device_class for rule in shipped_rules()}
    assert classes == set(DeviceClass) - {DeviceClass.UNKNOWN}


@pytest.mark.parametrize(("text", "said"), [
    ('[[rule]]\nfact = "port"\nmatch = "("\nweight = 5\nreason = "x"', "rule 1"),
    ('[[rule]]\nfact = "nonsense"\nmatch = "x"\nweight = 5\nreason = "x"', "nonsense"),
    ('[[rule]]\nfact = "port"\nmatch = "x"\nweight = 100\nreason = "x"', "between 1 and 99"),
    ('[[rule]]\nfact = "port"', "weight"), ("[[rule", "medical.toml"),
])
def test_a_damaged_rule_names_its_file_and_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(RuleError, match=r"medical\.toml") as caught:
        read_rules(text, DeviceClass.MEDICAL)
    assert said in str(caught.value)
