"""What is wrong with a network becomes an event, never two hundred wrong devices."""

from __future__ import annotations

import pytest

from network_scanner.anomalies import Watch
from network_scanner.facts import Fact, FactKind, Observation
from network_scanner.inventory import Inventory
from network_scanner.sweep import SweepResult

ROUTER, HOST, THIEF = "9c:3d:cf:00:00:01", "98:e7:43:00:00:01", "00:1b:21:00:00:02"
NOW = 1_800_000_000.0


@pytest.fixture
def watch() -> Watch:
    return Watch(Inventory(lambda mac: ""), gateway="10.0.0.1")


def arp(mac: str, ip: str, at: float = NOW) -> Observation:
    return Observation(at, mac, ip, (), "arp", bound=True)


def told(watch: Watch) -> list[str]:
    return [item.event.kind for item in watch.inventory.happenings if not item.asset_id]


def sweep(watch: Watch, answers: list[tuple[str, str]], at: float = NOW) -> SweepResult:
    watch.sweeping = True
    result = SweepResult()
    for ip, mac in answers:
        result.answers.setdefault(ip, []).append(mac)
        watch.take(arp(mac, ip, at))
    watch.sweep_finished(result, at)
    return result


def test_a_router_answering_for_all_254_addresses_is_one_device_and_one_event(watch: Watch) -> None:
    answers = [(f"10.0.0.{number}", ROUTER) for number in range(1, 255)]
    result = sweep(watch, [*answers, ("10.0.0.9", HOST)])
    assert told(watch) == ["proxy-arp"]
    assert set(watch.inventory.assets) == {watch.inventory.at_mac(mac).id for mac in (ROUTER, HOST)}  # type: ignore[union-attr]
    assert result.hosts() == {"10.0.0.9": HOST}
    router = watch.inventory.at_mac(ROUTER)
    assert router is not None
    assert list(router.ips) == ["10.0.0.1"]
    assert "network" in router.device_class


def test_the_same_proxy_is_told_once_not_with_every_sweep(watch: Watch) -> None:
    for number in range(5):
        sweep(watch, [(f"10.0.0.{n}", ROUTER) for n in range(1, 100)], NOW + 600 * number)
    assert told(watch) == ["proxy-arp"]


def test_two_devices_that_answer_for_one_address_are_an_event_and_two_devices(watch: Watch) -> None:
    sweep(watch, [("10.0.0.5", HOST), ("10.0.0.5", THIEF)])
    assert told(watch) == ["duplicate-address"]
    assert len(watch.inventory.assets) == 2
    assert watch.inventory.at_ip("10.0.0.5") is watch.inventory.at_mac(HOST)


def test_two_devices_that_quarrel_over_an_address_do_not_make_it_flap(watch: Watch) -> None:
    for number in range(20):
        watch.take(arp(HOST, "10.0.0.5", NOW + 2 * number))
        watch.take(arp(THIEF, "10.0.0.5", NOW + 2 * number + 1))
    assert told(watch) == ["duplicate-address"]
    owner = watch.inventory.at_ip("10.0.0.5")
    assert owner is watch.inventory.at_mac(HOST)
    assert [item.event.kind for item in watch.inventory.happenings].count("new-address") == 0


def test_an_address_that_dhcp_handed_on_moves_without_an_alarm(watch: Watch) -> None:
    watch.take(arp(HOST, "10.0.0.5"))
    watch.take(arp(THIEF, "10.0.0.5", NOW + 3600))
    assert told(watch) == []
    assert watch.inventory.at_ip("10.0.0.5") is watch.inventory.at_mac(THIEF)


def test_another_card_behind_the_gateways_address_is_an_event(watch: Watch) -> None:
    watch.take(arp(ROUTER, "10.0.0.1"))
    watch.take(arp(THIEF, "10.0.0.1", NOW + 3600))
    assert told(watch) == ["gateway-changed"]


def test_a_gateway_that_changed_while_the_scanner_was_off_is_an_event_too(watch: Watch) -> None:
    watch.remember("10.0.0.1", ROUTER, NOW - 86400)
    watch.take(arp(THIEF, "10.0.0.1"))
    assert told(watch) == ["gateway-changed"]


def test_a_second_dhcp_server_is_an_event(watch: Watch) -> None:
    role = (Fact(FactKind.ROLE, "dhcp-server"),)
    for mac, ip in ((ROUTER, "10.0.0.1"), (ROUTER, "10.0.0.1"), (THIEF, "10.0.0.66")):
        watch.take(Observation(NOW, mac, ip, role, "dhcp"))
    assert told(watch) == ["second-dhcp-server"]


def test_a_sweep_that_broke_off_leaves_no_half_truth(watch: Watch) -> None:
    watch.sweeping = True
    watch.take(arp(HOST, "10.0.0.5"))
    watch.sweep_failed()
    assert watch.inventory.assets == {}
    watch.take(arp(HOST, "10.0.0.5"))
    assert len(watch.inventory.assets) == 1


def test_an_arp_flood_is_bounded(watch: Watch) -> None:
    for number in range(6000):
        mac = (0x020000000000 + number).to_bytes(6, "big").hex(":")
        watch.take(arp(mac, f"10.1.{number // 250}.{number % 250 + 1}"))
    assert len(watch.inventory.assets) <= 1024
    assert len(watch._bindings) <= 4096
