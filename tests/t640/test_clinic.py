"""The clinic is what its ground truth says, and its line to the cloud can be cut."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from t640 import certificates, relay
from t640.capture import payload_bytes
from t640.clinic import network
from t640.clinic.site import Clinic
from t640.clinic.truth import HOSTS, Host
from t640.errors import RigError
from t640.processes import wait_for
from t640.session import open_session

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    os.environ["APPLIANCE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    try:
        with open_session() as session:
            yield Clinic(session)
    finally:
        del os.environ["APPLIANCE_CACHE"]


def listening(clinic: Clinic, host: str, kind: str) -> set[int]:
    lines = clinic.run(["ss", "-Hln", f"--{kind}"], host=host).splitlines()
    return {int(line.split()[3].rpartition(":")[2]) for line in lines}


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
def test_a_host_listens_where_the_truth_says(clinic: Clinic, host: Host) -> None:
    assert listening(clinic, host.name, "tcp") == set(host.tcp)
    assert listening(clinic, host.name, "udp") >= set(host.udp)


def knock(clinic: Clinic, address: str, port: int) -> None:
    """Connect from the intranet server. Raises `RigError` when nobody answers."""
    clinic.run(["timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}"], host="intranet")


def test_every_host_answers_arp_with_its_vendors_address(clinic: Clinic) -> None:
    for plugged in clinic.hosts.values():
        with contextlib.suppress(RigError):
            knock(clinic, plugged.address, 9)
        if plugged.host.name != "intranet":
            neighbours = clinic.run(["ip", "neigh", "show", plugged.address], host="intranet")
            assert plugged.host.mac in neighbours


def test_the_ultrasound_machine_answers_a_dicom_echo(clinic: Clinic) -> None:
    program = (
        "from pynetdicom import AE\n"
        "entity = AE(); entity.add_requested_context('1.2.840.10008.1.1')\n"
        "link = entity.associate('10.77.0.13', 104)\n"
        "print(link.send_c_echo().Status); link.release()\n"
    )
    assert clinic.run([sys.executable, "-c", program], host="admin").strip() == "0"
    assert clinic.received("ultrasound")


def test_the_printer_records_every_byte_it_is_sent(clinic: Clinic) -> None:
    clinic.run(["sh", "-c", "exec bash -c 'printf hello >/dev/tcp/10.77.0.15/9100'"], host="admin")
    wait_for(lambda: (9100, b"hello") in clinic.received("printer"), timeout=5, what="The printer's note")


def test_snmp_names_the_access_point(clinic: Clinic) -> None:
    answer = clinic.run(["snmpget", "-v2c", "-cpublic", "10.77.0.18", "1.3.6.1.2.1.1.5.0"])
    assert "UAP-AC-Pro" in answer


def test_a_host_comes_back_with_the_address_it_asks_for(clinic: Clinic) -> None:
    assert clinic.move("visitor", "10.77.0.188") == "10.77.0.188"


def test_the_uplink_can_be_cut_and_mended(clinic: Clinic) -> None:
    knock(clinic, network.CLOUD_ADDRESS, 53)
    clinic.uplink_down()
    with pytest.raises(RigError):
        knock(clinic, network.CLOUD_ADDRESS, 53)
    clinic.uplink_up()
    knock(clinic, network.CLOUD_ADDRESS, 53)


def test_the_capture_sees_what_is_on_the_wire(clinic: Clinic) -> None:
    capture = clinic.capture("test", "br0")  # the appliance's own port carries nothing while it is off
    with pytest.raises(RigError):
        knock(clinic, "10.77.0.250", 80)
    # The clinic's hosts now and then make sure of each other: only what is about this address counts.
    asked = [packet for packet in capture.stop() if packet.destination == "10.77.0.250"]
    assert {packet.protocol for packet in asked} == {"arp"}
    assert payload_bytes(asked, "10.77.0.250") == {}


def test_a_relay_carries_tls_from_loopback_into_the_cloud(clinic: Clinic, tmp_path: Path) -> None:
    authority = certificates.create(tmp_path, ("central.appliance.test",), ("127.0.0.1",))
    argv = ["openssl", "s_server", "-quiet", "-accept", "7443", "-www", "-cert", str(authority.certificate),
            "-key", str(authority.key)]  # fmt: skip
    clinic.session.start("tls", argv, namespace=clinic.network.cloud)
    door = relay.open_relay(clinic.session, "door", clinic.network.cloud, 19443, ("127.0.0.1", 7443))
    done = subprocess.run(
        ["curl", "-sS", "--retry", "5", "--retry-all-errors", "--cacert", str(authority.ca), f"https://127.0.0.1:{door.port}/"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert "TLSv1" in done.stdout, done.stderr


def test_a_taken_port_moves_the_relay_to_the_next(clinic: Clinic) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 19543))
        taken.listen()
        door = relay.open_relay(clinic.session, "moved", clinic.network.cloud, 19543, ("127.0.0.1", 1))
        assert door.port == 19544
