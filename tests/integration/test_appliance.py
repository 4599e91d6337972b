"""The appliance from its first boot to its recovery, in one ordered story on the virtual T640.

Each step goes on where the one before ended; what the steps share is in `scene`. Times are patience, not measurements.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from t640 import releases
from t640 import world as worlds
from t640.capture import Packet, payload_bytes, peak_rate, peak_rate_by_host
from t640.clinic import truth
from t640.clinic.network import APPLIANCE_ADDRESS
from t640.image import Recipe, build
from t640.machine import Machine
from t640.world import Scene
from tests.faults.marks import fault

pytestmark = [pytest.mark.vm, pytest.mark.story]

COUNT_PATH = "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
TRIES = 3
GENTLE = 100
GENTLE_PER_HOST = 10
LONG = 900.0


def until(condition: Callable[[], Any], what: str, timeout: float = LONG, every: float = 3.0) -> Any:
    """Poll until something is true, and return it."""
    end = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"{what} did not happen within {timeout:.0f} s"
        time.sleep(every)


def services_are_up(machine: Machine) -> None:
    for unit in worlds.SERVICES:
        machine.wait_for_unit(unit, 600)


def counted_boot(machine: Machine) -> str:
    """Assert that the loader counts this boot; returns the entry's path on the ESP."""
    machine.succeed(f"test -e {COUNT_PATH}")
    # efivarfs cannot seek, hence the cat; the first four bytes are the variable's attributes.
    return machine.succeed(f"cat {COUNT_PATH} | tail -c +5 | tr -d '\\0'")


def blessed(machine: Machine, version: str) -> None:
    """Wait until the gate has passed and the entry has lost its counter."""
    machine.wait_until_succeeds(f"ls /boot/EFI/Linux/ | grep -qx t640_{version}.efi", 600)
    assert machine.get_unit_property("boot-health.service", "Result") == "success"


def order(scene: Scene, kind: str, *options: str) -> str:
    return scene.world.central.order(kind, *options)


def finished(scene: Scene, identifier: str, timeout: float = LONG) -> dict[str, Any]:
    """Wait for an order's end and return it."""
    central = scene.world.central
    until(lambda: central.order_state(identifier)["finished_at"], f"the end of order {identifier}", timeout)
    return central.order_state(identifier)


def chain(scene: Scene) -> list[dict[str, Any]]:
    """The device's evidence as Central Command exports it, after it has verified it."""
    central = scene.world.central
    device = central.device()["id"]
    central.call("evidence", "verify", device)
    lines = central.call("evidence", "export", device).splitlines()
    return [json.loads(line) for line in lines[1:]]


def test_the_first_boot_is_counted_proves_itself_and_makes_the_other_slot_and_the_state(scene: Scene) -> None:
    scene.notes["capture"] = scene.world.clinic.capture("scan")
    scene.machine.start()
    assert scene.machine.wait_for_boot().version == scene.versions[0]
    assert f"t640_{scene.versions[0]}+" in counted_boot(scene.machine)
    services_are_up(scene.machine)
    blessed(scene.machine, scene.versions[0])
    table = scene.machine.succeed("lsblk -rno PARTLABEL")
    for label in ("ESP", f"t640_{scene.versions[0]}", "_empty", "state"):
        assert label in table
    assert scene.machine.succeed("systemctl --failed --no-legend").strip() == ""


def test_it_enrols_by_itself_and_reports_to_central_command(scene: Scene) -> None:
    device = scene.world.wait_for_device()
    assert device["version"] == scene.versions[0]
    assert scene.world.central.call("device", "list", "--json")


def test_its_checks_read_real_state(scene: Scene) -> None:
    until(lambda: _checked(scene.machine), "the first run of the checks")
    # Right after a start some cannot look yet; none of them may stay blind.
    results = until(lambda: _without_errors(scene.machine), "checks that can all look", every=5.0)
    assert len(results) >= 16
    for item in results:
        print(f"{item['check_id']:24} {item['verdict']:14} {item['reason']}")
    assert worlds.agent_status(scene.machine)["score"]["counted"] >= 10


def _without_errors(machine: Machine) -> list[dict[str, Any]]:
    results = worlds.api(machine, "compliance-agent", "/v1/checks/run", method="POST")
    blind = [f"{item['check_id']}: {item['reason']}" for item in results if item["verdict"] == "error"]
    print("\n".join(blind))
    return [] if blind else list(results)


def _checked(machine: Machine) -> dict[str, Any]:
    status = worlds.agent_status(machine)
    return status if status.get("checks_at") else {}


def test_the_scan_finds_the_clinic_as_it_is(scene: Scene) -> None:
    machine = scene.machine
    until(lambda: _scanned(machine), "the first scan")
    identifier = order(scene, "run_scan")
    assert finished(scene, identifier)["state"] == "completed"
    until(lambda: _scanned(machine), "the second scan")
    scores = truth.judge(worlds.inventory(machine))
    for kind, score in scores.items():
        print(f"{kind:12} precision {score.precision} recall {score.recall} ({score.found} of {score.present})")
    for kind in ("medical", "printer"):
        assert scores[kind].recall == scores[kind].precision == 1.0
    assert sum(score.found for score in scores.values()) >= 0.85 * len(truth.ALL)


def _scanned(machine: Machine) -> bool:
    status = worlds.scanner_status(machine)
    return bool(status.get("last_scan_at")) and not status.get("scanning")


def test_the_scan_was_gentle_and_silent_where_it_must_be(scene: Scene) -> None:
    capture = scene.notes["capture"]
    packets = capture.stop()  # type: ignore[attr-defined]
    sent = [packet for packet in packets if packet.source_mac == scene.machine.hardware.mac]
    scan = [packet for packet in sent if _scans(packet)]
    assert len(scan) > 500, "the capture saw no scan"
    print(f"peak {peak_rate(scan)} packets/s in all, {max(peak_rate_by_host(scan).values())} to one host")
    assert peak_rate(scan) <= GENTLE
    assert max(peak_rate_by_host(scan).values()) <= GENTLE_PER_HOST
    for host in truth.HOSTS:
        if host.silent:
            address = scene.world.clinic.hosts[host.name].address
            assert payload_bytes(sent, address) == {}, host.name
            assert scene.world.clinic.received(host.name) == []


def _scans(packet: Packet) -> bool:
    """Whether the scanner sent it: to the clinic's network, and no name, time or lease of the appliance's own."""
    if packet.protocol == "udp" and packet.destination_port in (53, 67, 123):
        return False
    in_clinic = packet.destination.startswith("10.77.0.")
    return in_clinic and (packet.protocol == "arp" or not _answers(packet))


def _answers(packet: Packet) -> bool:
    return packet.protocol == "tcp" and packet.source_port == 443


def test_a_host_with_a_new_address_stays_the_same_device(scene: Scene) -> None:
    laptop = scene.world.clinic.hosts["laptop"]
    before = _device(scene.machine, laptop.host.mac)
    address = scene.world.clinic.move("laptop", "10.77.0.177")
    assert address == "10.77.0.177"
    assert finished(scene, order(scene, "run_scan"))["state"] == "completed"
    until(lambda: address in _device(scene.machine, laptop.host.mac)["ip_addresses"], "the new address")
    assert _device(scene.machine, laptop.host.mac)["id"] == before["id"]


def _device(machine: Machine, mac: str) -> dict[str, Any]:
    (found,) = [device for device in worlds.devices(machine) if mac in device["mac_addresses"]]
    return dict(found)


def test_its_evidence_verifies_at_central_command(scene: Scene) -> None:
    until(lambda: scene.world.central.device()["queue_pending"] == 0, "an empty queue")
    assert len(until(lambda: chain(scene), "evidence at Central Command")) >= 1


@fault(58)
def test_without_its_uplink_it_goes_on_and_afterwards_nothing_is_lost_or_doubled(scene: Scene) -> None:
    machine, clinic = scene.machine, scene.world.clinic
    before = worlds.agent_status(machine)["evidence_sequence"]
    clinic.uplink_down()
    # Two changes of the appliance's state, each of which its checks must notice and write down.
    for change in ("nft flush ruleset", "systemctl restart nftables.service"):
        sequence = worlds.agent_status(machine)["evidence_sequence"]
        machine.succeed(change, "systemctl start compliance-agent-collect.service")
        until(lambda: _evidence_after(machine, sequence), f"evidence of {change}")  # noqa: B023
    assert clinic.run(["curl", "-ksS", f"https://{APPLIANCE_ADDRESS}/healthz"]).strip() == "ok"
    offline = until(lambda: _waiting(machine), "evidence in the queue")
    assert offline["queue"]["pending"] >= 2
    clinic.uplink_up()
    until(lambda: worlds.agent_status(machine)["queue"]["pending"] == 0, "the draining of the queue")
    last = worlds.agent_status(machine)["evidence_sequence"]
    assert last >= before + 2
    assert len(chain(scene)) == last


def _evidence_after(machine: Machine, sequence: int) -> bool:
    worlds.api(machine, "compliance-agent", "/v1/checks/run", method="POST")
    return bool(worlds.agent_status(machine)["evidence_sequence"] > sequence)


def _waiting(machine: Machine) -> dict[str, Any]:
    status = worlds.agent_status(machine)
    return status if status["queue"]["pending"] >= 2 else {}


def test_an_ordered_update_is_tried_proved_and_kept(scene: Scene) -> None:
    one, two, _ = scene.versions
    scene.world.updates.publish(two)
    identifier = order(scene, "update", "--version", two)
    assert scene.machine.wait_for_boot(2 * LONG).version == two
    assert f"t640_{two}+" in counted_boot(scene.machine)
    services_are_up(scene.machine)
    blessed(scene.machine, two)
    assert finished(scene, identifier)["state"] == "completed"
    status = json.loads(scene.machine.succeed("cat /run/appliance-update/status.json"))
    assert (status["state"], status["running_version"]) == ("committed", two)
    standby = [slot for slot in status["slots"].values() if slot["state"] == "standby"]
    assert [slot["version"] for slot in standby] == [one]
    assert len(chain(scene)) >= 1


def impatient(version: str) -> Recipe:
    """A version whose portal cannot start, and whose gate waits for it a minute instead of four."""
    chosen = releases.recipe(version, "bad-health")
    config, sooner = re.subn(r"(?m)^deadline = .*$", "deadline = 60.0", chosen.files[releases.CONFIG_FILE])
    assert sooner == 1
    return dataclasses.replace(chosen, files={**chosen.files, releases.CONFIG_FILE: config})


@fault(46, 62)
def test_a_bad_release_gives_up_after_its_tries_and_the_old_one_is_back_without_help(scene: Scene) -> None:
    _, two, three = scene.versions
    scene.world.updates.put(build(impatient(three)))
    identifier = order(scene, "update", "--version", three)
    seen = []
    for _ in range(TRIES):
        seen.append(scene.machine.wait_for_boot(2 * LONG).version)
        counted_boot(scene.machine)
    seen.append(scene.machine.wait_for_boot(2 * LONG).version)
    assert seen == [three, three, three, two]
    services_are_up(scene.machine)
    ended = finished(scene, identifier)
    assert ended["state"] == "failed"
    assert ended["reason"]
    status = json.loads(scene.machine.succeed("cat /run/appliance-update/status.json"))
    assert status["running_version"] == two
    assert status["state"] in ("rolled_back", "quarantined")
    until(lambda: scene.world.central.device()["version"] == two, "the old version at Central Command")


@fault(34)
def test_a_full_state_disk_is_said_and_survived(scene: Scene) -> None:
    machine = scene.machine
    kept = worlds.agent_status(machine)["evidence_sequence"]
    # More than what is not reserved for root: nothing is left for the agent.
    machine.succeed("fallocate -l $(($(df --output=avail -B1 /var | tail -1) - (16 << 20))) /var/ballast",
                    "head -c 32M /dev/zero >/var/ballast2; sync",
                    "test $(df --output=avail -B1 /var | tail -1) -eq 0")  # fmt: skip
    until(lambda: _trouble(machine), "word of the full disk")
    machine.succeed("rm -f /var/ballast /var/ballast2 && sync")
    until(lambda: not _trouble(machine), "the recovery")
    assert worlds.agent_status(machine)["evidence_sequence"] >= kept
    chain(scene)


def _trouble(machine: Machine) -> bool:
    worlds.api_quietly(machine, "compliance-agent", "/v1/checks/run", method="POST")
    results = worlds.api(machine, "compliance-agent", "/v1/checks")
    disk = [item["verdict"] for item in results if "state" in item["check_id"] and "disk" in item["check_id"]]
    return bool(worlds.agent_status(machine)["problems"]) or "fail" in disk


@fault(30)
def test_a_clock_at_1970_is_admitted_in_the_evidence_and_healed_by_the_network(scene: Scene) -> None:
    machine = scene.machine
    machine.shutdown(600)
    scene.world.clinic.uplink_down()
    machine.set_clock("1970-01-01T00:00:00")
    machine.start()
    machine.wait_for_boot()
    services_are_up(machine)
    status = until(lambda: _checked(machine), "the checks with a wrong clock")
    assert status["clock"] != "synchronised"
    scene.world.clinic.uplink_up()
    until(lambda: worlds.agent_status(machine)["clock"] == "synchronised", "the healing of the clock")
    until(lambda: worlds.agent_status(machine)["queue"]["pending"] == 0, "the draining of the queue")
    clocks = [entry["clock"] for entry in worlds.api(machine, "compliance-agent", "/v1/evidence?limit=20")]
    assert any(clock != "synchronised" for clock in clocks)
    chain(scene)
