"""Identity, class, policy and presence: what becomes of observations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance_protocol.inventory import DeviceClass, Presence, ScanPolicy
from network_scanner.asset import MAX_ADDRESSES, MAX_FACTS, Asset
from network_scanner.facts import Fact, FactKind, Observation
from network_scanner.inventory import MAX_DEVICES, Inventory
from network_scanner.presence import AWAY_SECONDS, GONE_SECONDS, presence

DELL, INTEL, RANDOM1, RANDOM2 = "98:e7:43:00:00:01", "00:1b:21:00:00:02", "da:a1:19:00:00:01", "ca:fe:00:00:00:02"
VENDORS = {"98:e7:43": "Dell Inc.", "00:1b:21": "Intel Corporate", "00:09:fb": "Philips Patient Monitoring"}
NOW = 1_800_000_000.0


@pytest.fixture
def inventory() -> Inventory:
    return Inventory(lambda mac: VENDORS.get(mac[:8], ""))


def see(
    inventory: Inventory, mac: str, ip: str = "", *facts: tuple[FactKind, str], at: float = NOW, bound: bool = True
) -> Asset:
    seen = tuple(Fact(kind, value) for kind, value in facts)
    asset = inventory.observe(Observation(at, mac, ip, seen, "test", bound=bound and bool(ip)))
    assert asset is not None
    return asset


def kinds(inventory: Inventory, asset: Asset) -> list[str]:
    return [item.event.kind for item in inventory.happenings if item.asset_id == asset.id]


# --- identity ---------------------------------------------------------------------------------------------------


def test_a_new_address_by_dhcp_is_the_same_device(inventory: Inventory) -> None:
    before = see(inventory, DELL, "10.0.0.5")
    after = see(inventory, DELL, "10.0.0.77", at=NOW + 4000)
    assert before is after
    assert len(inventory.assets) == 1
    assert after.current_ips() == ["10.0.0.77"]
    assert "new-address" in kinds(inventory, after)


def test_an_address_that_passes_to_another_device_no_longer_speaks_of_the_first(inventory: Inventory) -> None:
    first = see(inventory, DELL, "10.0.0.5")
    second = see(inventory, INTEL, "10.0.0.5", at=NOW + 4000)
    assert inventory.at_ip("10.0.0.5") is second
    assert first.ips == {}


def test_a_laptop_on_its_dock_and_on_wireless_is_one_device(inventory: Inventory) -> None:
    wired = see(inventory, DELL, "10.0.0.5", (FactKind.DHCP_NAME, "NURSE-LT"), (FactKind.SSH_KEY, "SHA256:abc"))
    wireless = see(inventory, INTEL, "10.0.0.6", (FactKind.MDNS_NAME, "nurse-lt"), (FactKind.SSH_KEY, "SHA256:abc"))
    assert len(inventory.assets) == 1
    assert set(wireless.macs) == {DELL, INTEL}
    assert wireless.id == wired.id
    assert "recognised" in kinds(inventory, wireless)


def test_clones_of_one_image_share_a_host_key_and_stay_two_devices(inventory: Inventory) -> None:
    see(inventory, DELL, "10.0.0.5", (FactKind.DHCP_NAME, "kiosk-one"), (FactKind.SSH_KEY, "SHA256:abc"))
    see(inventory, INTEL, "10.0.0.6", (FactKind.DHCP_NAME, "kiosk-two"), (FactKind.SSH_KEY, "SHA256:abc"))
    assert len(inventory.assets) == 2


def test_two_devices_of_one_name_stay_two(inventory: Inventory) -> None:
    see(inventory, DELL, "10.0.0.5", (FactKind.DHCP_NAME, "workstation"))
    see(inventory, INTEL, "10.0.0.6", (FactKind.DHCP_NAME, "workstation"))
    assert len(inventory.assets) == 2


def test_a_telephone_that_makes_up_a_new_address_is_recognised(inventory: Inventory) -> None:
    first = see(inventory, RANDOM1, "10.0.0.5", (FactKind.DHCP_NAME, "Annas-Pixel-8"))
    later = see(inventory, RANDOM2, "10.0.0.9", (FactKind.DHCP_NAME, "Annas-Pixel-8"), at=NOW + 86400)
    assert later.id == first.id
    assert later.randomised


def test_two_telephones_of_the_same_name_at_the_same_time_stay_two(inventory: Inventory) -> None:
    for offset in (0, 10, 20):
        see(inventory, RANDOM1, "10.0.0.5", (FactKind.DHCP_NAME, "Annas-Pixel-8"), at=NOW + offset)
        see(inventory, RANDOM2, "10.0.0.9", (FactKind.DHCP_NAME, "Bobs-Pixel-8"), at=NOW + offset + 1)
    assert len(inventory.assets) == 2


def test_a_medical_device_never_disappears_into_something_else(inventory: Inventory) -> None:
    monitor = see(inventory, "00:09:fb:00:00:01", "10.0.0.5", (FactKind.DHCP_NAME, "bedside"), (FactKind.TLS_KEY, "k"))
    see(inventory, DELL, "10.0.0.6", (FactKind.DHCP_VENDOR, "MSFT 5.0"), (FactKind.PORT, "445/tcp"))
    see(inventory, DELL, "10.0.0.6", (FactKind.DHCP_NAME, "bedside"), (FactKind.TLS_KEY, "k"))
    assert len(inventory.assets) == 2
    assert monitor.policy is ScanPolicy.LIMITED


def test_a_merge_keeps_what_a_person_said_and_the_stricter_policy(inventory: Inventory) -> None:
    first = see(inventory, DELL, "10.0.0.5", (FactKind.SSH_KEY, "SHA256:abc"), at=NOW - 100)
    second = see(inventory, INTEL, "10.0.0.6", (FactKind.DHCP_NAME, "nurse-lt"))
    inventory.set_policy(second.id, ScanPolicy.EXCLUDED, NOW)
    inventory.set_class(second.id, DeviceClass.CAMERA, NOW)
    see(inventory, INTEL, "", (FactKind.SSH_KEY, "SHA256:abc"))
    merged = see(inventory, DELL, "", (FactKind.DHCP_NAME, "nurse-lt"))
    assert len(inventory.assets) == 1
    assert merged.id == first.id
    assert (merged.policy, merged.policy_by) == (ScanPolicy.EXCLUDED, "person")
    assert (merged.device_class, merged.class_locked) == (DeviceClass.CAMERA, True)


def test_a_made_up_address_has_no_vendor_and_says_so(inventory: Inventory) -> None:
    asset = see(inventory, RANDOM1, "10.0.0.5")
    device = asset.to_device()
    assert (device.randomised_mac, device.vendor) == (True, "")


def test_words_from_an_address_nobody_holds_make_no_device(inventory: Inventory) -> None:
    seen = Observation(NOW, "", "10.0.0.5", (Fact(FactKind.DNS_NAME, "ghost"),), "dns")
    assert inventory.observe(seen) is None
    assert inventory.assets == {}


# --- class and policy -------------------------------------------------------------------------------------------


def test_medical_equipment_is_limited_before_anything_could_connect(inventory: Inventory) -> None:
    monitor = see(inventory, "00:09:fb:00:00:01", "10.0.0.5")
    assert (monitor.device_class, monitor.policy) == (DeviceClass.MEDICAL, ScanPolicy.LIMITED)
    assert kinds(inventory, monitor) == ["discovered", "class-changed", "policy-changed"]


@given(st.sampled_from(list(ScanPolicy)), st.lists(st.sampled_from([
    (FactKind.PORT, "104/tcp"), (FactKind.PORT, "631/tcp"), (FactKind.VENDOR, "Draeger Medical"),
    (FactKind.PORT, "22/tcp"), (FactKind.DHCP_NAME, "pacs"), (FactKind.MDNS_SERVICE, "_dicom._tcp"),
]), max_size=8))
@settings(max_examples=60, deadline=None)
def test_no_scan_ever_undoes_a_persons_policy(policy: ScanPolicy, facts: list[tuple[FactKind, str]]) -> None:
    inventory = Inventory(lambda mac: "")
    asset = see(inventory, DELL, "10.0.0.5")
    inventory.set_policy(asset.id, policy, NOW)
    for offset, fact in enumerate(facts):
        see(inventory, DELL, f"10.0.0.{5 + offset}", fact, at=NOW + offset)
    assert (asset.policy, asset.policy_by) == (policy, "person")


def test_a_policy_the_scanner_tightened_stays_when_the_evidence_grows_old(inventory: Inventory) -> None:
    asset = see(inventory, DELL, "10.0.0.5", (FactKind.PORT, "104/tcp"))
    asset.facts.clear()
    see(inventory, DELL, "10.0.0.5", (FactKind.PORT, "3389/tcp"), (FactKind.DHCP_VENDOR, "MSFT 5.0"))
    assert asset.device_class is DeviceClass.WORKSTATION
    assert asset.policy is ScanPolicy.LIMITED


def test_a_class_a_person_set_is_kept_until_the_person_takes_it_back(inventory: Inventory) -> None:
    asset = see(inventory, DELL, "10.0.0.5")
    inventory.set_class(asset.id, DeviceClass.CAMERA, NOW)
    see(inventory, DELL, "10.0.0.5", (FactKind.PORT, "3389/tcp"), (FactKind.DHCP_VENDOR, "MSFT 5.0"))
    assert (asset.device_class, asset.confidence, asset.reasons) == (DeviceClass.CAMERA, 1.0, ("a person said so",))
    inventory.set_class(asset.id, None, NOW)
    assert (asset.device_class, asset.class_locked) == (DeviceClass.WORKSTATION, False)


def test_what_a_person_calls_a_printer_is_fragile_from_then_on(inventory: Inventory) -> None:
    asset = see(inventory, DELL, "10.0.0.5")
    assert not asset.fragile
    inventory.set_class(asset.id, DeviceClass.PRINTER, NOW)
    see(inventory, DELL, "10.0.0.5", (FactKind.PORT, "22/tcp"))
    assert asset.fragile


# --- presence ---------------------------------------------------------------------------------------------------


def test_presence_takes_several_missed_sweeps_to_change(inventory: Inventory) -> None:
    asset, seen = see(inventory, DELL, "10.0.0.5"), list[Presence]()
    for number in range(1, 9):
        inventory.sweep_finished(set(), {"10.0.0.5"}, NOW + 600 * number)
        seen.append(asset.presence)
    assert seen == [Presence.UP, *[Presence.SLEEPING] * 4, *[Presence.AWAY] * 3]
    see(inventory, DELL, "10.0.0.5", at=NOW + 9000)
    assert asset.presence is Presence.UP
    assert kinds(inventory, asset).count("presence") == 2


def test_a_device_that_was_not_asked_has_not_missed_anything(inventory: Inventory) -> None:
    asset = see(inventory, DELL, "10.0.0.5")
    for number in range(20):
        inventory.sweep_finished(set(), {"10.0.0.6"}, NOW + number * 600)
    assert (asset.presence, asset.missed) == (Presence.UP, 0)


@given(st.integers(0, 100), st.floats(0, 1e8))
def test_presence_never_improves_with_more_silence(missed: int, silent: float) -> None:
    order = list(Presence)
    assert order.index(presence(missed, silent)) <= order.index(presence(missed + 1, silent + 60))
    assert presence(10**6, GONE_SECONDS) is Presence.GONE
    assert presence(10**6, AWAY_SECONDS - 1) is Presence.SLEEPING


# --- bounds -----------------------------------------------------------------------------------------------------


def test_a_flood_of_made_up_addresses_cannot_grow_the_inventory(inventory: Inventory) -> None:
    kept = see(inventory, DELL, "10.0.0.5")
    inventory.set_policy(kept.id, ScanPolicy.EXCLUDED, NOW)
    for number in range(MAX_DEVICES + 200):
        mac = (0x020000000000 + number).to_bytes(6, "big").hex(":")
        inventory.observe(Observation(NOW + number, mac, "", (), "arp"))
    assert len(inventory.assets) <= MAX_DEVICES
    assert kept.id in inventory.assets


def test_one_device_keeps_a_bounded_number_of_facts_and_addresses(inventory: Inventory) -> None:
    for number in range(400):
        service = (FactKind.MDNS_SERVICE, f"_s{number}._tcp")
        asset = see(inventory, DELL, f"10.0.{number // 200}.{number % 200 + 1}", service, at=NOW + number)
    assert len(asset.facts) <= MAX_FACTS
    assert len(asset.ips) <= MAX_ADDRESSES
    assert "10.0.1.200" in asset.ips


ports_seen = st.sampled_from([Fact(FactKind.PORT, "104/tcp"), Fact(FactKind.PORT, "22/tcp")])
other_kinds = [kind for kind in FactKind if kind is not FactKind.PORT]
some_facts = ports_seen | st.builds(Fact, st.sampled_from(other_kinds), st.sampled_from(["abc", "nurse", "pacs"]))
observations = st.lists(st.builds(
    Observation,
    at=st.floats(NOW, NOW + 1e6), mac=st.sampled_from([DELL, INTEL, RANDOM1, RANDOM2, "00:09:fb:00:00:01", ""]),
    ip=st.sampled_from(["10.0.0.5", "10.0.0.6", "fe80::1", ""]),
    facts=st.lists(some_facts, max_size=4).map(tuple),
    source=st.just("test"), bound=st.booleans(),
), max_size=40)


@given(observations)
@settings(max_examples=150, deadline=None)
def test_whatever_is_observed_addresses_belong_to_one_device_each(seen: list[Observation]) -> None:
    inventory = Inventory(lambda mac: VENDORS.get(mac[:8], ""))
    for item in seen:
        inventory.observe(item)
    owners = [mac for asset in inventory.assets.values() for mac in asset.macs]
    assert len(owners) == len(set(owners))
    for asset in inventory.assets.values():
        assert asset.macs
        device = asset.to_device()
        assert device.name
        for mac in asset.macs:
            assert inventory.at_mac(mac) is asset
        if device.device_class is DeviceClass.MEDICAL:
            assert device.policy is not ScanPolicy.STANDARD
